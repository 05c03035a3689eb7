"""LAMB (You et al. 2020) on flat buffers, and AdamW as BERT and ALBERT were trained with: without bias correction."""

import math
from collections.abc import Sequence
from typing import Any

import torch


class Lamb(torch.optim.Optimizer):
    """Update w -= lr * r * u with u = m / (sqrt(v) + eps) + weight_decay * w, in two parts.

    The trust ratio r is |w| / |u| of one tensor, or 1 where either is 0. It is 1, too, in groups that do not adapt:
    where none does, this is AdamW. A tensor may lie on several processes, whose parts of a norm have to be added up.
    So `begin` makes u and begins to add up; when that is done, `step` updates.

    Args:
        groups: torch's, of one flat parameter each; "bucket" is the `Bucket` whose tensors adapt, None where none does.
        lr, betas, eps: as torch's.
        bias_correction: whether m and v are divided by 1 - beta^t, as in the paper; ALBERT's are not.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        lr: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        bias_correction: bool = True,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": 0.0, "bucket": None}
        super().__init__(groups, defaults)
        self.betas, self.eps, self.bias_correction = betas, eps, bias_correction
        self._squares: list[torch.Tensor | None] = []

    @torch.no_grad()
    def begin(self) -> list[Any]:
        """Turn every gradient into u, in the same memory, and begin to add up the squared norms of w and u.

        Returns:
            torch's handles to wait for before `step`.
        """
        works, self._squares = [], []
        for group in self.param_groups:
            (parameter,), bucket = group["params"], group["bucket"]
            self._make_update(parameter, group["weight_decay"])
            squares = bucket.squared_norms(parameter, parameter.grad) if bucket else None
            if bucket and (work := bucket.begin_sum(squares)):
                works.append(work)
            self._squares.append(squares)
        return works

    def _make_update(self, parameter: torch.Tensor, weight_decay: float) -> None:
        update, state, (beta1, beta2) = parameter.grad, self.state[parameter], self.betas
        assert update is not None
        if not state:
            state.update(step=0.0, exp_avg=torch.zeros_like(update), exp_avg_sq=torch.zeros_like(update))
        state["step"] = step = float(state["step"]) + 1.0
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(update, 1 - beta1)
        square.mul_(beta2).addcmul_(update, update, value=1 - beta2)
        torch.sqrt(square, out=update)
        if self.bias_correction:
            update.div_(math.sqrt(1 - beta2**step))
        torch.div(mean, update.add_(self.eps), out=update)
        if self.bias_correction:
            update.div_(1 - beta1**step)
        if weight_decay:
            update.add_(parameter, alpha=weight_decay)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters; what `begin` returned must be done."""
        for group, squares in zip(self.param_groups, self._squares, strict=True):
            (parameter,) = group["params"]
            if squares is not None:
                weights, updates = squares.sqrt()
                ratios = torch.where((weights > 0) & (updates > 0), weights / updates, 1.0).to(parameter.dtype)
                for part, ratio in zip(group["bucket"].parts(parameter.grad), ratios, strict=True):
                    part.mul_(ratio)
            parameter.add_(parameter.grad, alpha=-group["lr"])
