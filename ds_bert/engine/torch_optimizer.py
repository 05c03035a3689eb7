"""The optimizer behind the boundary: torch's fused ones, and LAMB, on one flat tensor for each bucket."""

from collections.abc import Sequence
from typing import Any

import torch

from ds_bert.engine.buckets import Bucket
from ds_bert.engine.lamb import Lamb
from ds_bert.engine.settings import EngineSettings, ParameterGroup


class NothingToUpdate:
    """The optimizer of a stage without parameters that are trained: it counts the steps, as the others do.

    Args:
        device: where ``found_inf``, 1 where a step is skipped, is to be found.
    """

    def __init__(self, device: torch.device) -> None:
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[torch.Tensor, dict[str, Any]] = {}
        self.steps, self.found_inf = torch.zeros(2, device=device)

    def step(self) -> None:
        """Count a step that is not skipped."""
        self.steps += 1 - self.found_inf


def make_torch_optimizer(
    buckets: Sequence[tuple[Bucket, ParameterGroup]], settings: EngineSettings, device: torch.device
) -> torch.optim.Optimizer | NothingToUpdate:
    """Make what updates the master copies of these buckets, one parameter group for each, with its moments.

    Its attribute ``found_inf``, a scalar on the device, says before a step whether that is to be skipped: 1, else 0.
    """
    if not buckets:
        return NothingToUpdate(device)
    options, kind = settings.optimizer_options, settings.optimizer
    groups: list[dict[str, Any]] = [
        {
            "params": [torch.nn.Parameter(bucket.master)],
            "weight_decay": settings.weight_decay if group.decays else 0.0,
            "lr_scale": group.lr_scale,
            "bucket": bucket if group.decays and kind == "lamb" else None,
        }
        for bucket, group in buckets
    ]
    if kind == "lamb" or "bias_correction" in options:
        return Lamb(groups, **options)
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    optimizer = kinds[kind](groups, lr=0.0, fused=True, **options)
    _make_state(optimizer)
    return optimizer


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Make what torch would make in the first step, so that a device too small for it is found before."""
    for group in optimizer.param_groups:
        (parameter,) = group["params"]
        if isinstance(optimizer, torch.optim.SGD):
            kinds = ["momentum_buffer"] if group["momentum"] else []
        else:
            kinds = ["exp_avg", "exp_avg_sq"] + (["max_exp_avg_sq"] if group["amsgrad"] else [])
            optimizer.state[parameter]["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        optimizer.state[parameter].update({kind: torch.zeros_like(parameter) for kind in kinds})
