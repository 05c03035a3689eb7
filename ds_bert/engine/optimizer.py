"""The optimizer boundary: named gradients in, the next named weights out.

Behind it lie flattening, sharing between replicas (ZeRO stages 0 and 1; Rajbhandari et al. 2020), precision and the
global gradient norm. DeepSpeed's own wrappers are not used: without ZeRO its norm counts the first stage only, bf16
with fp32 sums needs ZeRO 1, and what each wrapper keeps is laid out differently. Here one layout serves all.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from ds_bert.engine.lamb import Lamb
from ds_bert.engine.layout import make_buckets, stages_by_name
from ds_bert.engine.loss_scaler import LossScaler
from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings
from ds_bert.engine.torch_optimizer import NothingToUpdate, make_torch_optimizer

PREVIOUS = "previous_weights"


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


@dataclass
class Reduction:
    """A global batch's gradients on their way to the step, through phases that each end with others' answers.

    Args:
        step, learning_rate: of the step.
        slot: where the gradients lie.
        sums: a float64 vector of this process on its device; once the norm is known, that of all processes on the CPU.
        phases: what is left to do before the update; each gives what is to be waited for before the next.
        works: what is under way; None when nothing is left.
        grad_norm, skipped: as in `StepResult`, once the norm is known.
    """

    step: int
    learning_rate: float
    slot: int
    sums: torch.Tensor
    phases: Iterator[list[Any]] = field(init=False)
    works: list[Any] | None = field(init=False)
    grad_norm: float = math.nan
    skipped: bool = False


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
        self.group = grid.new_group()  # of its own: under 2BW the norm is under way while others add up other things
        self.owners = stages_by_name(parameters, grid, control)
        buckets = make_buckets(parameters, self.owners, grid, settings)
        self.buckets = [bucket for bucket, _ in buckets]
        self.slots = settings.weight_versions
        self._bound = (0, 0)
        self._publishing: list[Any] = []
        self.scaler = LossScaler(settings.loss_scaling) if settings.precision == "fp16" else None
        self.torch_optimizer = make_torch_optimizer(buckets, settings)

    @property
    def loss_scale(self) -> float:
        """What the loss is to be multiplied by before its backward."""
        return self.scaler.scale if self.scaler else 1.0

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
        reduction.phases = self._phases(reduction)
        reduction.works = next(reduction.phases)
        return reduction

    def poll(self, reduction: Reduction, wait: bool = False) -> bool:
        """Move a reduction on as far as it goes without waiting, or, with ``wait``, to its end.

        Returns:
            Whether all that the update needs of other processes is here, so that `finish` would not wait.
        """
        while reduction.works is not None and (wait or all(work.is_completed() for work in reduction.works)):
            for work in reduction.works:
                work.wait()
            reduction.works = next(reduction.phases, None)
        return reduction.works is None

    def _phases(self, reduction: Reduction) -> Iterator[list[Any]]:
        """Sum the gradients, then their squared norm, then, for LAMB, the norms of its tensors."""
        yield [work for bucket in self.buckets if (work := bucket.begin_reduction(reduction.slot))]
        squares = [bucket.squared_norm(reduction.slot).reshape(1) for bucket in self.buckets]
        vector = torch.cat([torch.cat([reduction.sums.new_zeros(1), *squares]).sum().reshape(1), reduction.sums])
        yield [dist.all_reduce(vector, group=self.group, async_op=True)]
        squared_norm, reduction.sums = vector[0].item(), vector[1:].cpu()
        reduction.grad_norm = math.sqrt(squared_norm) / self.loss_scale if math.isfinite(squared_norm) else math.inf
        reduction.skipped = not bool(torch.isfinite(vector).all())  # the same vector, so the same answer, everywhere
        if not reduction.skipped:
            self._clip(reduction)
            if isinstance(self.torch_optimizer, Lamb):
                yield self.torch_optimizer.begin()

    @torch.no_grad()
    def finish(self, reduction: Reduction) -> StepResult:
        """Wait for `poll`'s end, update, begin to publish version ``step + 1``, set the gradients to zero."""
        self.poll(reduction, wait=True)
        self._update(reduction)
        before = self.loss_scale
        if self.scaler:
            self.scaler.update(reduction.skipped)
        for bucket in self.buckets:
            bucket.gradients[reduction.slot].zero_()
        rate, fell = reduction.learning_rate, self.loss_scale < before
        return StepResult(reduction.step, rate, reduction.grad_norm, reduction.skipped, reduction.sums, fell)

    def settle(self) -> None:
        """Wait until the newest weights have arrived from all processes."""
        for work in self._publishing:
            work.wait()
        self._publishing.clear()

    def _clip(self, reduction: Reduction) -> None:
        """Clip the gradients by their norm and hand them, with the weights they are of, to torch's optimizer."""
        factor = 1.0 / self.loss_scale
        if self.settings.max_grad_norm > 0:
            factor *= min(1.0, self.settings.max_grad_norm / (reduction.grad_norm + 1e-6))
        for group, bucket in zip(self.torch_optimizer.param_groups, self.buckets, strict=True):
            gradients = bucket.own(bucket.gradients[reduction.slot])
            if factor != 1.0:
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
        if not reduction.skipped:
            self.torch_optimizer.step()
        self._publishing = [work for bucket in self.buckets if (work := bucket.publish(slot))]

    def state_by_name(self, steps_done: int) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
        """Return ({kind: {parameter name: tensor}}, scalars); a collective call of all processes.

        The kind "weights" is the master copy, "previous_weights" the version before it where two are alive; the others
        are the optimizer's moments. Must not be called while micro-batches are in flight.

        Args:
            steps_done: optimizer steps taken, which number the newest version.
        """
        frozen = {name: stored.clone() for name, stored in self.frozen.items()}
        tensors: dict[str, dict[str, torch.Tensor]] = {"weights": frozen}
        scalars: dict[str, Any] = {"scaler": vars(self.scaler).copy() if self.scaler else None}
        for bucket, group in zip(self.buckets, self.torch_optimizer.param_groups, strict=True):
            tensors["weights"].update(bucket.whole(bucket.master))
            if self.slots > 1:
                previous = bucket.own(bucket.weights[(steps_done - 1) % self.slots])
                tensors.setdefault(PREVIOUS, {}).update(bucket.whole(previous))
            # Sorted: every process must gather the same kind at the same time.
            for kind, value in sorted(self.torch_optimizer.state[group["params"][0]].items()):
                if isinstance(value, torch.Tensor) and value.shape == bucket.master.shape:
                    tensors.setdefault(kind, {}).update(bucket.whole(value))
                elif value is not None:
                    scalars[kind] = float(value)
        if isinstance(self.torch_optimizer, NothingToUpdate):
            scalars["step"] = self.torch_optimizer.steps
        return tensors, scalars

    @torch.no_grad()
    def load_state_by_name(
        self, tensors: dict[str, dict[str, torch.Tensor]], scalars: dict[str, Any], steps_done: int
    ) -> None:
        """Take over what `state_by_name` gave, written under any cut; kinds other than "weights" may be absent.

        Without previous weights, where two versions are alive, the newest stand in for them.
        """
        for name, stored in self.frozen.items():
            stored.copy_(tensors["weights"][name])
            self.parameters[name].data.copy_(stored)
        newest, previous = steps_done % self.slots, (steps_done - 1) % self.slots
        for bucket, group in zip(self.buckets, self.torch_optimizer.param_groups, strict=True):
            bucket.advance(newest)
            bucket.part(tensors["weights"], into=bucket.master)
            if work := bucket.publish(newest):
                work.wait()
            if self.slots > 1:
                bucket.part(tensors.get(PREVIOUS, tensors["weights"]), into=bucket.own(bucket.weights[previous]))
                if work := bucket.gather(previous):
                    work.wait()
            state = self.torch_optimizer.state[group["params"][0]]
            for kind in sorted(tensors.keys() - {"weights", PREVIOUS}):
                state[kind] = torch.zeros_like(bucket.master)
                bucket.part(tensors[kind], into=state[kind])
            if "step" in scalars:
                state["step"] = torch.tensor(scalars["step"], dtype=torch.float32, device=bucket.master.device)
        if isinstance(self.torch_optimizer, NothingToUpdate):
            self.torch_optimizer.steps = scalars.get("step", 0.0)
        if self.scaler and scalars.get("scaler"):
            vars(self.scaler).update(scalars["scaler"])
        self.bind(steps_done, steps_done)
