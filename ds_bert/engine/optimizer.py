"""The optimizer boundary: named gradients in, the next named weights out.

Behind it lie flattening, sharing between replicas (ZeRO stages 0 and 1; Rajbhandari et al. 2020), precision and the
global gradient norm. DeepSpeed's own wrappers are not used: without ZeRO its norm counts the first stage only, bf16
with fp32 sums needs ZeRO 1, and what each wrapper keeps is laid out differently. Here one layout serves all.

No decision of a step is taken on the host: the norm, the factor of clipping, whether the step is skipped and the loss
scale stay on the device, and are read when their step is long past. On a GPU the host would else wait, in every step,
until its queue has run empty. There the whole step runs on a stream of its own: under 2BW the next global batch is
computed beside it, and waits for it (`wait_for_weights`) only where it needs the new weights.
"""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from ds_bert.engine.buckets import (
    PREVIOUS,
    WEIGHTS,
    Bucket,
    NothingToUpdate,
    Share,
    make_buckets,
    make_torch_optimizer,
    stages_by_name,
)
from ds_bert.engine.process_group import Grid, host_buffer
from ds_bert.engine.settings import EngineSettings, LossScaler
from ds_bert.engine.transport import Group


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did.

    Args:
        step: its number, from 0.
        learning_rate: that it was taken with.
        grad_norm: of the whole global batch's gradient before clipping, over all stages; not finite on an overflow.
        skipped: whether the gradient or a sum was not finite (fp16 overflows) and the weights were left as they were.
        sums: what the processes contributed, added up; on the CPU.
        scale_fell: whether the loss scale was lowered because of it, so that a later step may fit.
    """

    step: int
    learning_rate: float
    grad_norm: float
    skipped: bool
    sums: torch.Tensor
    scale_fell: bool = False


class PendingResult:
    """A step's result on its way from the device.

    Args:
        step, learning_rate: of the step.
        vector: float64 (1 + sums,), the gradient's squared norm, times the squared loss scale, and the sums.
        scales: float64 (2,), the loss scale before and after the step.
    """

    def __init__(self, step: int, learning_rate: float, vector: torch.Tensor, scales: torch.Tensor) -> None:
        self.step, self.learning_rate = step, learning_rate
        self._numbers, self._arrived = torch.cat([vector, scales]), None
        if self._numbers.is_cuda:
            there = self._numbers
            self._numbers = host_buffer(there.shape, there.dtype).copy_(there, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> StepResult:
        """Wait for the device to come this far."""
        if self._arrived is not None:
            self._arrived.synchronize()
        vector, (before, after) = self._numbers[:-2], self._numbers[-2:].tolist()
        squared_norm = vector[0].item()
        norm = math.sqrt(squared_norm) / before if math.isfinite(squared_norm) else math.inf
        skipped = not bool(torch.isfinite(vector).all())
        return StepResult(self.step, self.learning_rate, norm, skipped, vector[1:], after < before)


@dataclass
class Reduction:
    """A global batch's gradients on their way to the step, through phases that each end with others' answers.

    Args:
        step, learning_rate: of the step.
        slot: where the gradients lie.
        sums: a float64 vector of this process on its device.
        vector: float64 (1 + sums,), the gradient's squared norm and the sums of all processes, on the device.
        overflow: 1.0 where the vector is not finite and the step is to be skipped, else 0.0; on the device.
        phases: what is left to do before the update; each gives what is to be waited for before the next.
        works: what is under way; None when nothing is left.
    """

    step: int
    learning_rate: float
    slot: int
    sums: torch.Tensor
    vector: torch.Tensor = field(init=False)
    overflow: torch.Tensor = field(init=False)
    phases: Iterator[list[Any]] = field(init=False)
    works: list[Any] | None = field(init=False)


class Optimizer:
    """Update this process's parameters with gradients summed over a global batch.

    Args:
        parameters: this stage's parameters by name; those that are trained move into flat buffers.
        grid: this process's place.
        settings: which optimizer, precision and ZeRO stage.
        control: a gloo group of all processes, for what must not wait for a device.
    """

    def __init__(
        self,
        parameters: dict[str, torch.nn.Parameter],
        grid: Grid,
        settings: EngineSettings,
        control: dist.ProcessGroup,
    ) -> None:
        self.settings = settings
        self.grid = grid
        self.parameters = parameters
        # What is not trained is kept as it is stored: in 16 bits, the layers compute with a copy.
        frozen = {name: item.data for name, item in parameters.items() if not settings.is_trained(name)}
        self.frozen = {name: data.to(settings.master_dtype) for name, data in frozen.items()}
        for name in self.frozen:
            parameters[name].requires_grad_(False)
            parameters[name].data = parameters[name].data.to(settings.dtype)
        # Of its own: under 2BW the norm is under way while others add up other things.
        self.group = Group(grid, range(grid.world_size), across_stages=grid.num_stages > 1)
        self.owners = stages_by_name(parameters, grid, control)
        buckets = make_buckets(parameters, self.owners, grid, settings)
        self.buckets = [bucket for bucket, _ in buckets]
        self.slots = settings.weight_versions
        self._bound = (0, 0)
        self._arriving: deque[tuple[int, list[Any]]] = deque()  # steps, and what brings their weights
        self.scaler = LossScaler(settings.loss_scaling, grid.device) if settings.precision == "fp16" else None
        self._unscaled = torch.ones((), dtype=torch.float64, device=grid.device)
        self.torch_optimizer = make_torch_optimizer(buckets, settings, grid.device)
        self._stream = torch.cuda.Stream(grid.device) if grid.device.type == "cuda" else None

    @property
    def loss_scale(self) -> torch.Tensor:
        """What the loss is multiplied by before its backward, a float64 scalar on the device."""
        return self.scaler.scale if self.scaler else self._unscaled

    @property
    def is_queued(self) -> bool:
        """Whether a step can be queued to its end at once, as no wait for other processes holds up the host."""
        return self._stream is not None and self.group.is_queued

    def connect(self) -> None:
        """Meet the processes of every group once, before any of them has posted a receive."""
        self.group.connect()
        for group in dict.fromkeys(bucket.group for bucket in self.buckets):
            if group is not None:
                group.connect()

    def clear_gradients(self) -> None:
        """Set all gradients to zero."""
        for bucket in self.buckets:
            for gradients in bucket.gradients:
                gradients.zero_()

    def bind(self, version: int, step: int) -> None:
        """Let the parameters be weight version ``version``, and sum the gradients of ``step``."""
        slots = version % self.slots, step % self.slots
        if slots != self._bound:
            for bucket in self.buckets:
                bucket.bind(*slots)
            self._bound = slots

    def begin(self, step: int, learning_rate: float, sums: torch.Tensor) -> Reduction:
        """Begin to sum the gradients of ``step`` over the replicas, and those of tied parameters over their stages."""
        reduction = Reduction(step, learning_rate, step % self.slots, sums)
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream(self.grid.device))
            sums.record_stream(self._stream)
        with self._beside_the_layers():
            reduction.phases = self._phases(reduction)
            reduction.works = next(reduction.phases)
        return reduction

    def _beside_the_layers(self) -> contextlib.AbstractContextManager[Any]:
        """Queue what follows on the optimizer's own stream; on a CPU there is none."""
        return torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext()

    def poll(self, reduction: Reduction, wait: bool = False) -> bool:
        """Move a reduction on as far as it goes without waiting, or, with ``wait``, to its end.

        Returns:
            Whether all that the update needs of other processes is here, so that `finish` would not wait.
        """
        with self._beside_the_layers():
            while reduction.works is not None and (wait or all(work.is_completed() for work in reduction.works)):
                for work in reduction.works:
                    work.wait()
                reduction.works = next(reduction.phases, None)
        return reduction.works is None

    @torch.no_grad()
    def _phases(self, reduction: Reduction) -> Iterator[list[Any]]:
        """Do what comes before the update, up to each point where others' answers are needed; these are yielded.

        1. Sums of the gradients over the processes that hold a bucket.
        2. The squared norm, over all processes, and with it what else is to be added up (losses, votes): one vector.
           With 2 stages x 2 replicas, a stage's gradients are the same on both replicas by now, and only the first one
           counts them: stages with squared norms 9 and 16 contribute 9, 0, 16, 0, and every process finds 25.
        3. What the optimizer asks for: under LAMB and ZeRO 1, the norms of tensors that are spread over processes.

        On a CPU `poll` goes on with the next one when the answers are here, between two micro-batches. On a GPU all of
        it is queued at once, and the stream waits instead of the host.
        """
        yield [work for bucket in self.buckets if (work := bucket.begin_reduction(reduction.slot))]
        squares = [bucket.squared_norm(reduction.slot).reshape(1) for bucket in self.buckets]
        norm = torch.cat([reduction.sums.new_zeros(1), *squares]).sum().reshape(1)
        reduction.vector = torch.cat([norm, reduction.sums])
        yield [work] if (work := self.group.all_reduce(reduction.vector)) else []
        # The same vector, so the same decision, on all processes.
        reduction.overflow = (~torch.isfinite(reduction.vector).all()).float()
        # torch's fused optimizers look for this name; they, too, skip a step without asking the host.
        setattr(self.torch_optimizer, "found_inf", reduction.overflow)  # noqa: B010
        self._clip(reduction)
        if begin := getattr(self.torch_optimizer, "begin", None):
            yield begin()

    @torch.no_grad()
    def finish(self, reduction: Reduction) -> PendingResult:
        """Wait for `poll`'s end, update, begin to publish version ``step + 1``, set the gradients to zero."""
        self.poll(reduction, wait=True)
        with self._beside_the_layers():
            before = self.loss_scale.clone()
            self._update(reduction)
            if self.scaler:
                self.scaler.update(reduction.overflow)
            for bucket in self.buckets:
                bucket.gradients[reduction.slot].zero_()
            scales = torch.stack([before, self.loss_scale])
            return PendingResult(reduction.step, reduction.learning_rate, reduction.vector, scales)

    def wait_for_weights(self, step: int) -> None:
        """Let what follows wait until the weights that steps up to ``step`` made are here, from all processes."""
        while self._arriving and self._arriving[0][0] <= step:
            for work in self._arriving.popleft()[1]:
                work.wait()

    def _clip(self, reduction: Reduction) -> None:
        """Clip the gradients by their norm and hand them, with the weights they are of, to torch's optimizer."""
        factor = self.loss_scale.reciprocal()
        if self.settings.max_grad_norm > 0:
            norm = reduction.vector[0].sqrt() / self.loss_scale
            factor = factor * (self.settings.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for group, bucket in zip(self.torch_optimizer.param_groups, self.buckets, strict=True):
            gradients = bucket.own(bucket.gradients[reduction.slot])
            if factor.is_cuda or factor.item() != 1.0:
                gradients.mul_(factor)
            (parameter,) = group["params"]
            parameter.data, parameter.grad = bucket.master, gradients

    def _update(self, reduction: Reduction) -> None:
        """Make version ``step + 1``; after a skipped step it is a copy of the one before."""
        slot = (reduction.step + 1) % self.slots
        for group, bucket in zip(self.torch_optimizer.param_groups, self.buckets, strict=True):
            bucket.advance(slot)
            group["params"][0].data = bucket.master
            group["lr"] = reduction.learning_rate * group["lr_scale"]
        self.torch_optimizer.step()
        works: list[Any] = [work for bucket in self.buckets if (work := bucket.publish(slot))]
        if self._stream:
            for work in works:
                work.wait()
            works = [_Queued(self._stream)]
        self._arriving.append((reduction.step, works))

    def shares(self, steps_done: int) -> Iterator[Share]:
        """Say what lies here of the state that a run goes on from; nothing is copied, no other process is asked.

        Weights are the master copy, previous weights the version before it where two are alive, the rest `moments`.
        Must not be called while micro-batches are in flight.

        Args:
            steps_done: optimizer steps taken, which number the newest version.
        """
        yield from self._frozen_shares()
        for kind, bucket, own in self._buffers(steps_done):
            yield from bucket.shares(kind, own)

    def scalars(self, steps_done: int) -> dict[str, Any]:
        """What belongs to the state beside tensors: as JSON, the same on all processes; see `shares`."""
        scalars: dict[str, Any] = {"scaler": self.scaler.state() if self.scaler else None}
        if isinstance(self.torch_optimizer, NothingToUpdate):
            return {**scalars, "step": float(self.torch_optimizer.steps)}
        counters = [state["step"] for state in self.torch_optimizer.state.values() if "step" in state]
        return {**scalars, "step": counters[0].item()} if counters and steps_done else scalars

    @torch.no_grad()
    def load(
        self, read: Callable[[Share], None], kinds: Collection[str], scalars: dict[str, Any], steps_done: int
    ) -> None:
        """Take over a state, written under any cut; a collective call of all processes.

        Args:
            read: copies into a share's ``part`` what belongs there; called for all weights and for ``kinds``.
            kinds: what there is beside weights. Absent moments are zero; where two weight versions are alive, the
                newest stand in for absent previous ones.
            scalars: what `scalars` gave; may be empty.
            steps_done: optimizer steps taken.
        """
        newest, previous = steps_done % self.slots, (steps_done - 1) % self.slots
        for share in self._frozen_shares():
            read(share)
            self.parameters[share.name].data.copy_(self.frozen[share.name])
        for bucket in self.buckets:
            bucket.advance(newest)
        for kind, bucket, own in self._buffers(steps_done):
            if kind == WEIGHTS or kind in kinds:
                for share in bucket.shares(kind, own):
                    read(share)
            elif kind == PREVIOUS:
                own.copy_(bucket.master)
            else:
                own.zero_()
        for bucket in self.buckets:
            for work in (bucket.publish(newest), bucket.gather(previous) if self.slots > 1 else None):
                if work:
                    work.wait()
        for state in self.torch_optimizer.state.values():
            if "step" in state:
                state["step"].fill_(scalars.get("step", 0.0))
        if isinstance(self.torch_optimizer, NothingToUpdate):
            self.torch_optimizer.steps.fill_(scalars.get("step", 0.0))
        if self.scaler and scalars.get("scaler"):
            self.scaler.load(scalars["scaler"])
        self.bind(steps_done, steps_done)

    def moments(self) -> set[str]:
        """The kinds of the optimizer's moments on this process: zero before the first step."""
        return {kind for kind, _, _ in self._buffers(0)} - {WEIGHTS, PREVIOUS}

    def _frozen_shares(self) -> Iterator[Share]:
        for name, stored in self.frozen.items():
            yield Share(WEIGHTS, name, tuple(stored.shape), stored.view(-1))

    def _buffers(self, steps_done: int) -> Iterator[tuple[str, Bucket, torch.Tensor]]:
        """(kind, bucket, this process's part of it) of all that is trained; of each bucket the weights first."""
        for bucket, group in zip(self.buckets, self.torch_optimizer.param_groups, strict=True):
            yield WEIGHTS, bucket, bucket.master
            if self.slots > 1:
                yield PREVIOUS, bucket, bucket.own(bucket.weights[(steps_done - 1) % self.slots])
            for kind, moment in self.torch_optimizer.state[group["params"][0]].items():
                if kind != "step":
                    yield kind, bucket, moment


class _Queued:
    """All that a stream has been given up to now, to be waited for by another."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._event = stream.record_event()

    def wait(self) -> None:
        torch.cuda.current_stream().wait_event(self._event)
