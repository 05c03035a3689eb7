"""Optimizers of flat parameters: torch's own, each in one kernel, LAMB, and AdamW as BERT was trained with."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ds_bert.engine.optimizers import Groups


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


class Lamb(torch.optim.Optimizer):
    """Update w -= lr * r * u with u = m / (sqrt(v) + eps) + weight_decay * w, in two parts.

    The trust ratio r is |w| / |u| of one tensor, or 1 where either is 0. It is 1, too, in groups that do not adapt:
    where none does, this is AdamW. A tensor may lie on several processes, whose parts of a norm have to be added up.
    So `begin` makes u and begins to add up; when that is done, `step` updates.

    Args:
        groups: torch's, of one flat parameter each; "bucket" is the `Bucket` whose tensors adapt, None where none does.
        lr, betas, eps: as torch's.
        bias_correction: whether m and v are divided by 1 - beta^t, as in the paper; in Google's code they are not.
    """

    def __init__(
        self,
        groups: Groups,
        lr: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        bias_correction: bool = True,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": 0.0, "bucket": None}
        super().__init__(groups, defaults)
        self.betas, self.eps, self.bias_correction = betas, eps, bias_correction
        device = self.param_groups[0]["params"][0].device
        self.found_inf = torch.zeros((), device=device)  # as torch's own are told: 1 where a step is to be skipped
        self._squares: list[torch.Tensor | None] = []
        for group in self.param_groups:
            (parameter,) = group["params"]
            moments = {kind: torch.zeros_like(parameter) for kind in ("exp_avg", "exp_avg_sq")}
            self.state[parameter].update(step=torch.zeros((), dtype=torch.float64, device=device), **moments)

    @property
    def _is_skipped(self) -> bool:
        """Whether the host knows that this step is skipped; on a GPU it does not ask, and the arithmetic sees to it."""
        return not self.found_inf.is_cuda and bool(self.found_inf)

    @torch.no_grad()
    def begin(self) -> list[Any]:
        """Turn every gradient into u, in the same memory, and begin to add up the squared norms of w and u.

        Returns:
            torch's handles to wait for before `step`.
        """
        works: list[Any] = []
        self._squares = []
        if self._is_skipped:
            return works
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
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        new: Any = 1 - beta1
        kept: Any = beta2
        if update.is_cuda:  # in a skipped step the moments keep all that they have, and gain zeros
            taken = 1 - self.found_inf
            update.masked_fill_(self.found_inf > 0, 0.0)
            new, kept = new * taken, 1 - (1 - kept) * taken
        state["step"] = state["step"] + (1 - self.found_inf)
        mean.lerp_(update, new)
        square.mul_(kept).addcmul_(update, update, value=1 - beta2)
        torch.sqrt(square, out=update)
        if self.bias_correction:
            update.div_(_root(_bias(beta2, state["step"])))
        torch.div(mean, update.add_(self.eps), out=update)
        if self.bias_correction:
            update.div_(_bias(beta1, state["step"]))
        if weight_decay:
            update.add_(parameter, alpha=weight_decay)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters, unless the step is skipped; what `begin` returned must be done."""
        if self._is_skipped:
            return
        for group, squares in zip(self.param_groups, self._squares, strict=True):
            (parameter,) = group["params"]
            if squares is not None:
                weights, updates = squares.sqrt()
                ratios = torch.where((weights > 0) & (updates > 0), weights / updates, 1.0).to(parameter.dtype)
                for part, ratio in zip(group["bucket"].parts(parameter.grad), ratios, strict=True):
                    part.mul_(ratio)
            if parameter.is_cuda:
                parameter.addcmul_(parameter.grad, 1 - self.found_inf, value=-group["lr"])
            else:
                parameter.add_(parameter.grad, alpha=-group["lr"])


def lamb(groups: Groups, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Make LAMB; tensors that decay adapt."""
    return Lamb(groups, **options)


def _bias(beta: float, step: torch.Tensor) -> Any:
    """1 - beta^step: a number where the step is known to the host, else a float64 scalar on its device."""
    return 1 - beta ** (step.double().clamp(min=1) if step.is_cuda else step.item())


def _root(value: Any) -> Any:
    return value.sqrt() if isinstance(value, torch.Tensor) else math.sqrt(value)
