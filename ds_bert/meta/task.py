"""One task on one stage: its weights, the inner step it waits for, and, on the last stage, what it measures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from ds_bert.meta.fast_weights import FastWeights, LabelWeights, StageWeights, clip_factor, no_norm, squared_norm_of
from ds_bert.meta.loss import batch_loss, class_means, scores
from ds_bert.modeling.layers import Carry


@dataclass(frozen=True)
class Method:
    """How a task's classes are told apart.

    Args:
        features: the head's output that is compared with the classes' weights: "encoding", "pooled" or "mean".
        begin: what these weights begin as: made by the generator, the mean of the features, or zero.
        euclidean: whether a score is the negative squared distance, not the product.
        max_grad_norm: bound of an inner gradient's global norm, over all stages; 0 for none.
    """

    features: str = "encoding"
    begin: Literal["generated", "means", "zero"] = "generated"
    euclidean: bool = False
    max_grad_norm: float = 1.0

    def begin_weights(self, outputs: Carry, labels: Carry, num_classes: int) -> torch.Tensor:
        """The classes' weights that a first batch gives, (N, E)."""
        if self.begin == "generated":
            return class_means(outputs["generated"], labels["labels"], num_classes)
        rows_BD = outputs[self.features]
        means_ND = class_means(rows_BD, labels["labels"], num_classes)
        weights_NE = torch.cat([means_ND, means_ND[:, :1] * 0], dim=1)
        return weights_NE if self.begin == "means" else torch.zeros_like(weights_NE)


class Task:
    """A task under way on one stage.

    Args:
        method: how its classes are told apart.
        stage: the stage's weights.
        fast: its own.
        make_labels: from the classes' first weights (N, E) to those that are adapted.

    ``losses`` are those of its support passes, ``queries`` (weighted loss, share that is right) of its query passes,
    ``scores`` (B, N) those of its predictions: what the last stage has measured since `begin`.
    """

    def __init__(
        self,
        method: Method,
        stage: StageWeights,
        fast: FastWeights,
        make_labels: Callable[[torch.Tensor, StageWeights], LabelWeights] = LabelWeights,
    ) -> None:
        self.method, self.stage, self.fast, self.make_labels = method, stage, fast, make_labels
        self.num_classes = 0
        self.squared_norm = no_norm(stage.device)
        self.labels: LabelWeights | None = None
        self.losses: list[torch.Tensor] = []
        self.scores: list[torch.Tensor] = []
        self.queries: list[torch.Tensor] = []
        self._rate: float | None = None

    def begin(self) -> None:
        """Forget the task before."""
        self.fast.reset()
        self.labels, self._rate = None, None
        self.losses, self.queries, self.scores = [], [], []
        self.squared_norm = no_norm(self.stage.device)

    def measure(self, kind: str, outputs: Carry, labels: Carry, scale: float) -> torch.Tensor | None:
        """Do what the last stage does with a pass's outputs; return the loss, if it has one."""
        if kind == "generate":
            begin = self.method.begin_weights(outputs, labels, self.num_classes)
            self.labels = self.make_labels(begin, self.stage)
            return None
        assert self.labels is not None
        if kind == "close":
            begin = self.method.begin_weights(outputs, labels, self.num_classes)
            return (begin * self.labels.cotangent).sum()
        found = scores(outputs[self.method.features], self.labels.value, self.method.euclidean)
        if kind == "predict":
            self.scores.append(found)
            return None
        loss = batch_loss(found, labels)
        if kind == "support":
            self.losses.append(loss.detach())
            return loss
        correct = (found.detach().argmax(1) == labels["labels"]).double().mean()
        self.queries.append(torch.stack([scale * loss.detach().double(), correct]))
        return loss * scale

    def mean_loss(self) -> torch.Tensor:
        """Mean of the support passes' losses since the last call, on the device; 0 where none is known."""
        losses, self.losses = self.losses, []
        return torch.stack(losses).mean() if losses else torch.zeros((), device=self.stage.device)

    def keep_inner_gradient(self, rate: float) -> None:
        """Note that a support pass's gradient is here; the step is taken once its norm over all stages is known."""
        self.squared_norm = self.squared_norm + self.fast.squared_norm()
        if self.labels is not None:
            self.squared_norm = self.squared_norm + squared_norm_of([self.labels.gradient], self.stage.device)
        self._rate = rate

    def take_step(self) -> None:
        """Take the inner step that is due, if one is; ``squared_norm`` is that of all stages now."""
        if self._rate is not None:
            clip = clip_factor(self.squared_norm, self.method.max_grad_norm)
            self.fast.step(clip, self._rate)
            if self.labels is not None:
                self.labels.step(clip, self._rate)
            self._rate = None

    def take_query_gradient(self) -> None:
        """Turn a query's gradient into meta-gradients."""
        self.fast.take_query_gradient()
        if self.labels is not None:
            self.labels.take_query_gradient()
