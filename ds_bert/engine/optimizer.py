"""The optimizer boundary: named gradients in, the next named weights out.

Behind it lie flattening, sharing between replicas (ZeRO stages 0 and 1; Rajbhandari et al. 2020), precision and the
global gradient norm. DeepSpeed's own wrappers are not used: without ZeRO its norm counts the first stage only, bf16
with fp32 sums needs ZeRO 1, and what each wrapper keeps is laid out differently. Here one layout serves all.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ds_bert.engine.buckets import Bucket
from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings, LossScaling

PREVIOUS = "previous_weights"


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did.

    Args:
        step: its number, from 0.
        learning_rate: that it was taken with.
        grad_norm: of the whole global batch's gradient before clipping, over all stages; not finite on an overflow.
        skipped: whether fp16 overflowed and the weights were left as they were.
        sums: what the processes contributed, added up; on the CPU.
    """

    step: int
    learning_rate: float
    grad_norm: float
    skipped: bool
    sums: torch.Tensor


@dataclass
class Reduction:
    """A global batch's gradients on their way to the step: summed over processes, then their norm over all.

    Args:
        step, learning_rate: of the step.
        slot: where the gradients lie.
        sums: a float64 vector of this process, on its device, to be added up over all processes on the way.
        works: the gradients' summing.
        vector: the squared norm and the sums, once `works` are done; ``work`` adds it up over all processes.
    """

    step: int
    learning_rate: float
    slot: int
    sums: torch.Tensor
    works: list[Any]
    vector: torch.Tensor | None = None
    work: Any = None


class Optimizer:
    """Update this process's parameters with gradients summed over a global batch.

    Args:
        parameters: this stage's parameters by name; they move into flat buffers.
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
        self.group = grid.new_group()  # of its own: under 2BW the norm is under way while others add up other things
        self.owners = _stages_by_name(parameters, grid, control)
        self.buckets = _make_buckets(parameters, self.owners, grid, settings)
        self.slots = settings.weight_versions
        self._bound = (0, 0)
        self._publishing: list[Any] = []
        self.scaler = LossScaler(settings.loss_scaling) if settings.precision == "fp16" else None
        self.torch_optimizer = _torch_optimizer(self.buckets, settings)

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
        slot = step % self.slots
        works = [work for bucket in self.buckets if (work := bucket.begin_reduction(slot))]
        return Reduction(step, learning_rate, slot, sums, works)

    def poll(self, reduction: Reduction, wait: bool = False) -> bool:
        """Move a reduction on as far as it goes without waiting, or, with ``wait``, to its end.

        Returns:
            Whether the norm is known on all processes, so that `finish` would not wait.
        """
        if reduction.vector is None and (wait or all(work.is_completed() for work in reduction.works)):
            for work in reduction.works:
                work.wait()
            squares = [bucket.squared_norm(reduction.slot) for bucket in self.buckets]
            reduction.vector = torch.cat([torch.stack(squares).sum().reshape(1), reduction.sums])
            reduction.work = dist.all_reduce(reduction.vector, group=self.group, async_op=True)
        return reduction.work is not None and reduction.work.is_completed()

    @torch.no_grad()
    def finish(self, reduction: Reduction) -> StepResult:
        """Wait for the norm, clip by it, update, begin to publish version ``step + 1``, set the gradients to zero."""
        self.poll(reduction, wait=True)
        assert reduction.vector is not None
        reduction.work.wait()
        squared_norm, sums = reduction.vector[0].item(), reduction.vector[1:].cpu()
        grad_norm = math.sqrt(squared_norm) / self.loss_scale if math.isfinite(squared_norm) else math.inf
        skipped = self.scaler is not None and not math.isfinite(grad_norm)
        if not skipped:
            self._update(reduction, grad_norm)
        if self.scaler:
            self.scaler.update(skipped)
        for bucket in self.buckets:
            bucket.gradients[reduction.slot].zero_()
        return StepResult(reduction.step, reduction.learning_rate, grad_norm, skipped, sums)

    def settle(self) -> None:
        """Wait until the newest weights have arrived from all processes."""
        for work in self._publishing:
            work.wait()
        self._publishing.clear()

    def _update(self, reduction: Reduction, grad_norm: float) -> None:
        factor = 1.0 / self.loss_scale
        if self.settings.max_grad_norm > 0:
            factor *= min(1.0, self.settings.max_grad_norm / (grad_norm + 1e-6))
        slot = (reduction.step + 1) % self.slots
        for group, bucket in zip(self.torch_optimizer.param_groups, self.buckets, strict=True):
            gradients = bucket.own(bucket.gradients[reduction.slot])
            if factor != 1.0:
                gradients.mul_(factor)
            bucket.advance(slot)
            group["lr"] = reduction.learning_rate
            (parameter,) = group["params"]
            parameter.data, parameter.grad = bucket.master, gradients
        self.torch_optimizer.step()
        self._publishing = [work for bucket in self.buckets if (work := bucket.publish(slot))]

    def state_by_name(self, steps_done: int) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
        """Return ({kind: {parameter name: tensor}}, scalars); a collective call of all processes.

        The kind "weights" is the master copy, "previous_weights" the version before it where two are alive; the others
        are the optimizer's moments. Must not be called while micro-batches are in flight.

        Args:
            steps_done: optimizer steps taken, which number the newest version.
        """
        tensors: dict[str, dict[str, torch.Tensor]] = {"weights": {}}
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
        return tensors, scalars

    @torch.no_grad()
    def load_state_by_name(
        self, tensors: dict[str, dict[str, torch.Tensor]], scalars: dict[str, Any], steps_done: int
    ) -> None:
        """Take over what `state_by_name` gave, written under any cut; kinds other than "weights" may be absent.

        Without previous weights, where two versions are alive, the newest stand in for them.
        """
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
                state["step"] = torch.tensor(scalars["step"], dtype=torch.float32)
        if self.scaler and scalars.get("scaler"):
            vars(self.scaler).update(scalars["scaler"])
        self.bind(steps_done, steps_done)


class LossScaler:
    """Dynamic loss scale of fp16 (Micikevicius et al. 2018, section 3.2): the same on all processes, step by step."""

    def __init__(self, settings: LossScaling) -> None:
        self.fixed = settings.fixed > 0
        self.scale = settings.fixed or settings.initial
        self.window, self.minimum = settings.window, settings.minimum
        self.good_steps = 0

    def update(self, overflowed: bool) -> None:
        """Take note of a step: halve the scale after an overflow, double it after ``window`` steps without one."""
        if self.fixed:
            return
        self.good_steps = 0 if overflowed else self.good_steps + 1
        if overflowed:
            self.scale = max(self.scale / 2, self.minimum)
        elif self.good_steps == self.window:
            self.scale, self.good_steps = self.scale * 2, 0


def _stages_by_name(
    parameters: dict[str, torch.nn.Parameter], grid: Grid, control: dist.ProcessGroup
) -> dict[str, tuple[int, ...]]:
    """Which stages hold a parameter of that name: more than one where it is tied."""
    names: list[list[str]] = [[] for _ in range(grid.world_size)]
    dist.all_gather_object(names, list(parameters), group=control)
    owners: dict[str, tuple[int, ...]] = {}
    for stage in range(grid.num_stages):
        for name in names[grid.rank_of(stage, 0)]:
            owners[name] = (*owners.get(name, ()), stage)
    return owners


def _make_buckets(
    parameters: dict[str, torch.nn.Parameter], owners: dict[str, tuple[int, ...]], grid: Grid, settings: EngineSettings
) -> list[Bucket]:
    buckets = []
    for stages in sorted(set(owners.values())):  # the same order everywhere: making a group takes all processes
        ranks = [grid.rank_of(stage, replica) for stage in stages for replica in range(grid.num_replicas)]
        group = grid.new_group(ranks)
        if grid.stage not in stages:
            continue
        for decays in (True, False):
            members = {
                name: parameters[name]
                for name, holders in owners.items()
                if holders == stages and (parameters[name].ndim >= 2) == decays
            }
            if members:
                sharded = settings.zero_stage == 1
                types = settings.dtype, settings.master_dtype
                slots = settings.weight_versions
                buckets.append(Bucket(members, group, ranks, grid.rank, *types, sharded, slots))
    return buckets


def _torch_optimizer(buckets: list[Bucket], settings: EngineSettings) -> torch.optim.Optimizer:
    groups = []
    for bucket in buckets:
        master = torch.nn.Parameter(bucket.master)
        decays = next(iter(bucket.parameters.values())).ndim >= 2
        groups.append({"params": [master], "weight_decay": settings.weight_decay if decays else 0.0})
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    return kinds[settings.optimizer](groups, lr=0.0, fused=True, **settings.optimizer_options)
