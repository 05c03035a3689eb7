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


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did.

    Args:
        grad_norm: of the whole global batch's gradient before clipping, over all stages; not finite on an overflow.
        skipped: whether fp16 overflowed and the weights were left as they were.
        sums: what the processes contributed, added up.
    """

    grad_norm: float
    skipped: bool
    sums: torch.Tensor


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
        self.owners = _stages_by_name(parameters, grid, control)
        self.buckets = _make_buckets(parameters, self.owners, grid, settings)
        self.scaler = LossScaler(settings.loss_scaling) if settings.precision == "fp16" else None
        self.torch_optimizer = _torch_optimizer(self.buckets, settings)

    @property
    def loss_scale(self) -> float:
        """What the loss is to be multiplied by before its backward."""
        return self.scaler.scale if self.scaler else 1.0

    def reduce_gradients(self) -> None:
        """Sum the gradients over the replicas, and those of tied parameters over all stages that hold them."""
        for bucket in self.buckets:
            bucket.reduce_gradients()

    @torch.no_grad()
    def step(self, learning_rate: float, sums: torch.Tensor) -> StepResult:
        """Clip by the global norm, update, publish the weights and set the gradients to zero.

        Args:
            learning_rate: of this step.
            sums: a float64 vector of this process, on its device, to be added up over all processes on the way.
        """
        squares = [bucket.squared_norm() for bucket in self.buckets]
        local = torch.cat([torch.stack(squares).sum().reshape(1), sums])
        dist.all_reduce(local)
        grad_norm = math.sqrt(local[0].item()) / self.loss_scale if math.isfinite(local[0].item()) else math.inf
        skipped = self.scaler is not None and not math.isfinite(grad_norm)
        if not skipped:
            self._update(learning_rate, grad_norm)
        if self.scaler:
            self.scaler.update(skipped)
        for bucket in self.buckets:
            bucket.gradients.zero_()
        return StepResult(grad_norm, skipped, local[1:])

    def _update(self, learning_rate: float, grad_norm: float) -> None:
        factor = 1.0 / self.loss_scale
        if self.settings.max_grad_norm > 0:
            factor *= min(1.0, self.settings.max_grad_norm / (grad_norm + 1e-6))
        for group, bucket in zip(self.torch_optimizer.param_groups, self.buckets, strict=True):
            group["lr"] = learning_rate
            if factor != 1.0:
                bucket.own_gradients.mul_(factor)
        self.torch_optimizer.step()
        for bucket in self.buckets:
            bucket.publish()

    def state_by_name(self) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
        """Return ({kind: {parameter name: tensor}}, scalars); a collective call of all processes.

        The kind "weights" is the master copy; the others are the optimizer's moments.
        """
        tensors: dict[str, dict[str, torch.Tensor]] = {"weights": {}}
        scalars: dict[str, Any] = {"scaler": vars(self.scaler).copy() if self.scaler else None}
        for bucket, group in zip(self.buckets, self.torch_optimizer.param_groups, strict=True):
            tensors["weights"].update(bucket.whole(bucket.master))
            for kind, value in self.torch_optimizer.state[group["params"][0]].items():
                if isinstance(value, torch.Tensor) and value.shape == bucket.master.shape:
                    tensors.setdefault(kind, {}).update(bucket.whole(value))
                elif value is not None:
                    scalars[kind] = float(value)
        return tensors, scalars

    @torch.no_grad()
    def load_state_by_name(self, tensors: dict[str, dict[str, torch.Tensor]], scalars: dict[str, Any]) -> None:
        """Take over what `state_by_name` gave, written under any cut; kinds other than "weights" may be absent."""
        for bucket, group in zip(self.buckets, self.torch_optimizer.param_groups, strict=True):
            bucket.part(tensors["weights"], into=bucket.master)
            state = self.torch_optimizer.state[group["params"][0]]
            for kind in tensors.keys() - {"weights"}:
                state[kind] = torch.zeros_like(bucket.master)
                bucket.part(tensors[kind], into=state[kind])
            if "step" in scalars:
                state["step"] = torch.tensor(scalars["step"], dtype=torch.float32)
            bucket.publish()
        if self.scaler and scalars.get("scaler"):
            vars(self.scaler).update(scalars["scaler"])


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
                buckets.append(Bucket(members, group, ranks, grid.rank, *types, sharded))
    return buckets


def _torch_optimizer(buckets: list[Bucket], settings: EngineSettings) -> torch.optim.Optimizer:
    groups = []
    for bucket in buckets:
        master = torch.nn.Parameter(bucket.master)
        master.grad = bucket.own_gradients
        decays = next(iter(bucket.parameters.values())).ndim >= 2
        groups.append({"params": [master], "weight_decay": settings.weight_decay if decays else 0.0})
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    return kinds[settings.optimizer](groups, lr=0.0, fused=True, **settings.optimizer_options)
