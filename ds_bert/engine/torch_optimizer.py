"""The optimizer behind the boundary, on one flat tensor for each bucket."""

from collections.abc import Sequence
from typing import Any

import torch

from ds_bert.engine.buckets import Bucket
from ds_bert.engine.optimizers import OPTIMIZERS
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
    """Make what updates the master copies of these buckets, one parameter group for each, with its moments."""
    if not buckets:
        return NothingToUpdate(device)
    groups: list[dict[str, Any]] = [
        {
            "params": [torch.nn.Parameter(bucket.master)],
            "weight_decay": settings.weight_decay if group.decays else 0.0,
            "lr_scale": group.lr_scale,
            "bucket": bucket if group.decays else None,
        }
        for bucket, group in buckets
    ]
    return OPTIMIZERS[settings.optimizer].make(groups, settings.optimizer_options)
