"""fp16's loss scale: as large as the gradients allow."""

from typing import Any

import torch

from ds_bert.engine.settings import LossScaling


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
