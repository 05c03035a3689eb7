"""Torch's own optimizers, each of which updates a flat parameter in one kernel."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ds_bert.engine.optimizers import Groups
from ds_bert.engine.optimizers.lamb import Lamb


def adamw(groups: Groups, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Make AdamW (Loshchilov and Hutter 2019). Torch's always corrects the moments' bias; without, `Lamb` is it."""
    if "bias_correction" in options:
        return Lamb([{**group, "bucket": None} for group in groups], **options)
    return _make(torch.optim.AdamW, groups, options, _moments_of_adam(options))


def adam(groups: Groups, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Make Adam (Kingma and Ba 2015), whose weight decay is a part of the gradient."""
    return _make(torch.optim.Adam, groups, options, _moments_of_adam(options))


def sgd(groups: Groups, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Make SGD, with momentum where that is not 0."""
    moments = ["momentum_buffer"] if options.get("momentum") else []
    return _make(torch.optim.SGD, groups, options, moments, counts=False)


def _moments_of_adam(options: Mapping[str, Any]) -> list[str]:
    return ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if options.get("amsgrad") else [])]


def _make(
    kind: Callable[..., torch.optim.Optimizer],
    groups: Groups,
    options: Mapping[str, Any],
    moments: list[str],
    counts: bool = True,
) -> torch.optim.Optimizer:
    """Make the optimizer, and the state that torch would make in the first step."""
    optimizer = kind([{**group, "bucket": None} for group in groups], lr=0.0, fused=True, **options)
    for group in optimizer.param_groups:
        (parameter,) = group["params"]
        if counts:
            optimizer.state[parameter]["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        optimizer.state[parameter].update({moment: torch.zeros_like(parameter) for moment in moments})
    return optimizer
