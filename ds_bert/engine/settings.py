"""What the engine is told: precision, optimizer and sharding, already checked; and fp16's loss scale."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from ds_bert.schedules import SCHEDULES

Precision = Literal["fp32", "bf16", "fp16", "fp64"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


@dataclass(frozen=True)
class LossScaling:
    """fp16's loss scale: ``fixed`` if not 0, else doubled after ``window`` good steps and halved on overflow."""

    fixed: float = 0.0
    initial: float = 2.0**16
    window: int = 1000
    minimum: float = 1.0


@dataclass(frozen=True)
class ParameterGroup:
    """Which parameters are updated alike.

    Args:
        decays: whether they have weight decay and, under LAMB, a trust ratio.
        lr_scale: factor of the learning rate.
    """

    decays: bool
    lr_scale: float = 1.0


def always(name: str) -> bool:
    """Let every parameter be trained."""
    return True


def by_dimensions(name: str, dimensions: int) -> ParameterGroup:
    """Let matrices decay, but not biases and norms, which have fewer than two dimensions."""
    return ParameterGroup(decays=dimensions >= 2)


@dataclass(frozen=True)
class EngineSettings:
    """Settings of one engine.

    Args:
        optimizer: a name in `ds_bert.engine.optimizers.OPTIMIZERS`.
        optimizer_options: what it is made with, other than lr and weight_decay (betas, eps, momentum).
        weight_decay: of parameters that decay.
        parameter_group: the group of a parameter, from its name and number of dimensions; the same on all processes.
        is_trained: whether the parameter of a name is updated; others have no gradient, no moments, no master copy.
        max_grad_norm: bound of the global gradient norm, over all parameters of all stages; 0 for none.
        zero_stage: 0 (every replica keeps the whole optimizer of its stage) or 1 (replicas share it).
        precision: of weights and activations; gradients are summed and weights updated in fp32 (fp64 for fp64).
        tf32: whether a job lets CUDA take fp32 matrix products in TF32, see `ds_bert.training.lifecycle`.
        recompute: activation checkpointing, layer by layer.
        seed: of dropout.
        schedule: order of forwards and backwards, a name in `ds_bert.schedules.SCHEDULES`.
        traced: the steps whose instructions' times are kept, see `ds_bert.engine.timeline.Timeline`.
    """

    optimizer: str = "adamw"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    weight_decay: float = 0.0
    parameter_group: Callable[[str, int], ParameterGroup] = by_dimensions
    is_trained: Callable[[str], bool] = always
    max_grad_norm: float = 1.0
    zero_stage: Literal[0, 1] = 0
    precision: Precision = "fp32"
    tf32: bool = False
    loss_scaling: LossScaling = LossScaling()
    recompute: bool = False
    seed: int = 42
    schedule: str = "1f1b"
    traced: range | int = 0

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and activations."""
        return DTYPES[self.precision]

    @property
    def master_dtype(self) -> torch.dtype:
        """Type in which gradients are summed and weights updated."""
        return torch.float64 if self.precision == "fp64" else torch.float32

    @property
    def never_drains(self) -> bool:
        """Whether the schedule lets global batches overlap."""
        return SCHEDULES[self.schedule].never_drains

    @property
    def weight_versions(self) -> int:
        """Weight versions that are alive at once."""
        return SCHEDULES[self.schedule].weight_versions


class LossScaler:
    """Dynamic loss scale of fp16 (Micikevicius et al. 2018, section 3.2): the same on all processes, step by step.

    Args:
        settings: how it begins and changes.
        device: where the scale lies, so that nothing waits to learn whether a step overflowed.
    """

    def __init__(self, settings: LossScaling, device: torch.device) -> None:
        self.fixed = settings.fixed > 0
        self.scale = torch.tensor(settings.fixed or settings.initial, dtype=torch.float64, device=device)
        self.window, self.minimum = settings.window, settings.minimum
        self.good_steps = torch.zeros((), dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, overflowed: torch.Tensor) -> None:
        """Take note of a step: halve the scale after an overflow, double it after ``window`` steps without one.

        Args:
            overflowed: a scalar, 1 for an overflow, 0 for none.
        """
        if self.fixed:
            return
        overflow = overflowed > 0
        self.good_steps = (self.good_steps + 1).masked_fill(overflow, 0.0)
        grows = self.good_steps == self.window
        lower = (self.scale / 2).clamp(min=self.minimum)
        self.scale = torch.where(overflow, lower, torch.where(grows, self.scale * 2, self.scale))
        self.good_steps = self.good_steps.masked_fill(grows, 0.0)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        numbers = {"scale": self.scale.item(), "good_steps": int(self.good_steps.item())}
        return {"fixed": self.fixed, "window": self.window, "minimum": self.minimum, **numbers}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.fixed, self.window, self.minimum = state["fixed"], state["window"], state["minimum"]
        self.scale.fill_(state["scale"])
        self.good_steps.fill_(state["good_steps"])
