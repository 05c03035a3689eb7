"""Weights of one task that plain fine-tuning changes: by AdamW, not by learned step sizes."""

import torch

from ds_bert.meta.fast_weights import FastWeights, LabelWeights, StageWeights

_DECAY = 0.01


def _adamw(tensors: list[torch.Tensor]) -> torch.optim.Optimizer | None:
    matrices, others = [item for item in tensors if item.ndim > 1], [item for item in tensors if item.ndim < 2]
    groups = [{"params": part, "weight_decay": decay} for part, decay in ((matrices, _DECAY), (others, 0.0)) if part]
    return torch.optim.AdamW(groups, lr=0.0, fused=True) if groups else None


def _take(optimizer: torch.optim.Optimizer | None, rate: float) -> None:
    if optimizer:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


class FineTunedWeights(FastWeights):
    """A task's weights on one stage, by AdamW; ``rate`` is the learning rate."""

    def reset(self) -> None:
        """Begin a new task."""
        super().reset()
        self.optimizer = _adamw(list(self.values.values()))

    @torch.no_grad()
    def step(self, clip: torch.Tensor, rate: float) -> None:
        """Take the step that the gradients are for; see `FastWeights.step`."""
        for name, gradient in self.gradients.items():
            self.values[name].grad = gradient.mul_(clip.to(gradient.dtype))
        _take(self.optimizer, rate)
        for gradient in self.gradients.values():
            gradient.zero_()


class FineTunedLabels(LabelWeights):
    """A task's classifier, by AdamW."""

    def __init__(self, begin: torch.Tensor, stage: StageWeights) -> None:
        super().__init__(begin, stage)
        self.optimizer = _adamw([self.value])

    @torch.no_grad()
    def step(self, clip: torch.Tensor, rate: float) -> None:
        """Take the step that the gradient is for."""
        self.gradient.mul_(clip.to(self.value.dtype))
        _take(self.optimizer, rate)
        self.value.grad = None
