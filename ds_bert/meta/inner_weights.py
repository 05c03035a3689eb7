"""A task's own weights of one stage, as a function of the stage's: θ − α·S, where S sums the clipped inner gradients.

First-order meta-gradients follow from S alone. With a query's gradient G at the inner weights, that of θ is G, and that
of a layer group's step size α is −⟨S, G⟩. So nothing is kept per inner step.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from ds_bert.engine.buckets import sum_of_squares
from ds_bert.modeling.adapters import LABELS, STEP_SIZE, group_of

Tensors = dict[str, torch.Tensor]
Use = Literal["outer", "inner", "query", "none"]


@dataclass(frozen=True)
class _OuterWeight:
    """A parameter, and its own value and gradient, wherever it is bound at the moment."""

    parameter: torch.nn.Parameter
    value: torch.Tensor
    gradient: torch.Tensor | None


class StageWeights:
    """The parameters of one stage, and which weights they are bound to.

    Args:
        parameters: by name; those that are trained have ``main_grad``, where their gradients are summed.
        is_adapted: whether the parameter of a name has inner weights.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], is_adapted: Callable[[str], bool]) -> None:
        self.outer = {
            name: _OuterWeight(item, item.data, getattr(item, "main_grad", None)) for name, item in parameters.items()
        }
        self.device = next(iter(parameters.values())).device
        self.adapted = [name for name in parameters if is_adapted(name)]
        self._is_adapted = frozenset(self.adapted)

    def step_size(self, group: str) -> _OuterWeight:
        """The step size of a layer group."""
        return self.outer[STEP_SIZE + group]

    def bind(self, inner: "InnerWeights | None", use: Use) -> None:
        """Let the parameters be a task's.

        Args:
            inner: the task's weights; None for the stage's own.
            use: which gradients are wanted: "inner" those of the adapted parameters, for the task; "query" those, and
                those of what is trained; "outer" of what is trained; "none".
        """
        for name, outer in self.outer.items():
            parameter, gradient = outer.parameter, outer.gradient
            needs_gradient = use in ("outer", "query") and gradient is not None
            parameter.data = outer.value
            if inner is not None and name in self._is_adapted:
                parameter.data, gradient = inner.values[name], inner.gradients[name]
                needs_gradient = use in ("inner", "query")
            parameter.requires_grad_(needs_gradient)
            parameter.main_grad = parameter.grad = gradient  # type: ignore[attr-defined]


class InnerWeights:
    """One task's weights on one stage.

    Args:
        stage: whose parameters they begin as.
    """

    def __init__(self, stage: StageWeights) -> None:
        self.stage = stage
        begin = {name: stage.outer[name].value for name in stage.adapted}
        self.values = {name: value.clone() for name, value in begin.items()}
        self.gradients = {name: torch.zeros_like(value) for name, value in begin.items()}
        self.sums = {name: torch.zeros_like(value) for name, value in begin.items()}

    def reset(self) -> None:
        """Begin a new task."""
        zero_([*self.gradients.values(), *self.sums.values()])
        for name, value in self.values.items():
            value.copy_(self.stage.outer[name].value)

    def squared_norm(self) -> torch.Tensor:
        """Sum of squares of this stage's inner gradient, float64 (1,); 0 of a stage that adapts nothing."""
        return squared_norm_of(self.gradients.values(), self.stage.device)

    @torch.no_grad()
    def step(self, clip: torch.Tensor, rate: float) -> None:
        """Take the inner step that the gradients are for, and set them to zero.

        Args:
            clip: what the gradients are multiplied by, (1,) float64; see `clip_factor`.
            rate: multiplies the step sizes.
        """
        factor = clip * rate
        for name, gradient in self.gradients.items():
            outer = self.stage.outer[name].value
            self.sums[name].addcmul_(gradient, factor.to(gradient.dtype))
            alpha = self.stage.step_size(group_of(name)).value
            torch.addcmul(outer, self.sums[name], alpha, value=-1, out=self.values[name])
            gradient.zero_()

    @torch.no_grad()
    def take_query_gradient(self) -> None:
        """Add the meta-gradients that follow from a query's gradient, and set that to zero."""
        for name, gradient in self.gradients.items():
            outer, alpha = self.stage.outer[name], self.stage.step_size(group_of(name))
            if outer.gradient is not None:
                outer.gradient.add_(gradient)
            if alpha.gradient is not None:
                alpha.gradient.sub_((self.sums[name] * gradient).sum())
            gradient.zero_()


class LabelWeights:
    """One task's label embeddings: an inner weight that begins as what the generator made of the first batch.

    Args:
        begin: (N, D + 1).
        stage: that holds their step size.
    """

    def __init__(self, begin: torch.Tensor, stage: StageWeights) -> None:
        self.begin, self.stage = begin.detach(), stage
        self.value = self.begin.clone().requires_grad_()
        self.sum, self.cotangent = torch.zeros_like(self.begin), torch.zeros_like(self.begin)

    @property
    def gradient(self) -> torch.Tensor:
        """Of the last loss."""
        assert self.value.grad is not None
        return self.value.grad

    @torch.no_grad()
    def step(self, clip: torch.Tensor, rate: float) -> None:
        """Take the inner step; see `InnerWeights.step`."""
        factor = clip * rate
        self.sum.addcmul_(self.gradient, factor.to(self.sum.dtype))
        alpha = self.stage.step_size(LABELS).value
        self.value = (self.begin - alpha * self.sum).requires_grad_()

    @torch.no_grad()
    def take_query_gradient(self) -> None:
        """Keep the gradient for the generator, and add that of the step size."""
        self.cotangent.add_(self.gradient)
        alpha = self.stage.step_size(LABELS)
        if alpha.gradient is not None:
            alpha.gradient.sub_((self.sum * self.gradient).sum())
        self.value.grad = None


def clip_factor(squared_norm: torch.Tensor, max_norm: float) -> torch.Tensor:
    """What a gradient is multiplied by so that its norm is at most ``max_norm`` (0: any)."""
    return max_norm / squared_norm.clamp(min=max_norm**2).sqrt() if max_norm else torch.ones_like(squared_norm)


def squared_norm_of(gradients: Iterable[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Sum of squares over all of them, float64 (1,), on the device where they lie."""
    squares = [sum_of_squares(gradient.flatten()) for gradient in gradients]
    return torch.stack(squares).sum().reshape(1) if squares else no_norm(device)


def no_norm(device: torch.device) -> torch.Tensor:
    """What squared norms are added up from, float64 (1,)."""
    return torch.zeros(1, dtype=torch.float64, device=device)


def zero_(tensors: list[torch.Tensor]) -> None:
    """Set tensors to zero in place."""
    if tensors:
        torch._foreach_zero_(tensors)


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


class FineTunedWeights(InnerWeights):
    """A task's weights on one stage, by AdamW; ``rate`` is the learning rate."""

    def reset(self) -> None:
        """Begin a new task."""
        super().reset()
        self.optimizer = _adamw(list(self.values.values()))

    @torch.no_grad()
    def step(self, clip: torch.Tensor, rate: float) -> None:
        """Take the step that the gradients are for; see `InnerWeights.step`."""
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
