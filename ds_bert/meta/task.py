"""A task: its passes through the model, how its classes are told apart, and its way through one stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn import functional as F

from ds_bert.engine.execution import MicroBatch
from ds_bert.meta.inner_weights import InnerWeights, LabelWeights, StageWeights, clip_factor, no_norm, squared_norm_of
from ds_bert.modeling.adapters import Selection
from ds_bert.modeling.model import Carry


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


Kind = Literal["generate", "support", "query", "regenerate", "predict"]


@dataclass(frozen=True)
class Pass:
    """One batch of a task through the model.

    Args:
        kind: "generate" makes the label embeddings; "support" is an inner step; "query" measures; "regenerate" brings
            the gradient of the label embeddings back to the network; "predict" is forward only.
        part: which of the support's batches, as `TaskBatches` has them; not used by queries.
        weight: of a query's loss.
        number: of its dropout: "generate" and "regenerate" are the same batch with the same dropout.
    """

    kind: Kind
    part: int = 0
    weight: float = 1.0
    number: int = 0


def query_steps(inner_steps: int, every: int) -> list[int]:
    """After which inner steps the query is measured: before the first, after every ``every``-th, and at the end."""
    between = range(every, inner_steps, every) if every else ()
    return [0, *between, inner_steps] if inner_steps else [0]


def query_weights(steps: Sequence[int], total: int, decay: float = 0.5) -> list[float]:
    """Weights decay^(S - s) of the query's loss after step s of S, normalised to add up to 1."""
    weights = [decay ** (total - step) for step in steps]
    return [weight / sum(weights) for weight in weights]


def task_passes(num_batches: int, inner_epochs: int, every: int) -> list[Pass]:
    """List the passes of one task.

    The first batch makes the label embeddings; each of the others is an inner step.

    Args:
        num_batches: of the support.
        inner_epochs: times that the support is gone through.
        every: inner steps between two queries; 0: at the beginning and at the end only.
    """
    inner_steps = inner_epochs * (num_batches - 1)
    steps = query_steps(inner_steps, every)
    weights = dict(zip(steps, query_weights(steps, inner_steps), strict=True))
    passes = [Pass("generate")]
    for step in range(inner_steps + 1):
        if step:
            passes.append(Pass("support", step, number=len(passes)))
        if step in weights:
            passes.append(Pass("query", weight=weights[step], number=len(passes)))
    return [*passes, Pass("regenerate")]


def class_means(rows_BE: torch.Tensor, labels_B: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Average the rows of each class, (N, E); every class must have one."""
    members_NB = F.one_hot(labels_B, num_classes).to(rows_BE.dtype).t()
    return members_NB @ rows_BE / members_NB.sum(1, keepdim=True)


def scores(encoding_BD: torch.Tensor, weights_NE: torch.Tensor, euclidean: bool = False) -> torch.Tensor:
    """Score the classes, (B, N): h·wᵀ + b, where b is the last of the E = D + 1 columns; or −‖h − w‖²."""
    weights_ND = weights_NE[:, :-1]
    if euclidean:
        return -(encoding_BD[:, None] - weights_ND[None]).square().sum(-1)
    return encoding_BD @ weights_ND.t() + weights_NE[:, -1]


def batch_loss(scores_BN: torch.Tensor, labels: Carry) -> torch.Tensor:
    """Mean cross-entropy of a batch."""
    return F.cross_entropy(scores_BN, labels["labels"])


@dataclass(frozen=True)
class TaskBatches:
    """One task of a replica.

    Args:
        number: in the global batch, counted over all replicas.
        num_classes: N.
        support: batches; the first makes the label embeddings, each of the others is for one inner step.
        query: one batch.
    """

    number: int
    num_classes: int
    support: Sequence[MicroBatch]
    query: MicroBatch

    def batch_of(self, item: Pass, passes: int) -> MicroBatch:
        """The batch that goes through the model in one of ``passes``, with the number that its dropout follows from."""
        batch = self.query if item.kind == "query" else self.support[item.part]
        return replace(batch, number=self.number * passes + item.number)


@dataclass(frozen=True)
class Learner:
    """How tasks are learned.

    Args:
        passes: of a task, see `ds_bert.meta.task.task_passes`.
        method: how classes are told apart.
        selection: what is adapted, and what is trained.
        first_order: whether inner gradients are constants to the outer loop.
        tasks_in_flight: tasks of a replica that take turns.
        step_size_range: bounds of the learned step sizes.
    """

    passes: Sequence[Pass]
    method: Method
    selection: Selection
    first_order: bool = True
    tasks_in_flight: int = 1
    step_size_range: tuple[float, float] = (1e-8, 1.0)


class RunningTask:
    """A task under way on one stage.

    Args:
        method: how its classes are told apart.
        stage: the stage's weights.
        inner: its own.
        make_labels: from the classes' first weights (N, E) to those that are adapted.

    ``losses`` are those of its support passes, ``queries`` (weighted loss, share that is right) of its query passes,
    ``scores`` (B, N) those of its predictions: what the last stage has measured since `begin`.
    """

    def __init__(
        self,
        method: Method,
        stage: StageWeights,
        inner: InnerWeights,
        make_labels: Callable[[torch.Tensor, StageWeights], LabelWeights] = LabelWeights,
    ) -> None:
        self.method, self.stage, self.inner, self.make_labels = method, stage, inner, make_labels
        self.num_classes = 0
        self.squared_norm = no_norm(stage.device)
        self.labels: LabelWeights | None = None
        self.losses: list[torch.Tensor] = []
        self.scores: list[torch.Tensor] = []
        self.queries: list[torch.Tensor] = []
        self._rate: float | None = None

    def begin(self) -> None:
        """Forget the task before."""
        self.inner.reset()
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
        if kind == "regenerate":
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
        self.squared_norm = self.squared_norm + self.inner.squared_norm()
        if self.labels is not None:
            self.squared_norm = self.squared_norm + squared_norm_of([self.labels.gradient], self.stage.device)
        self._rate = rate

    def take_step(self) -> None:
        """Take the inner step that is due, if one is; ``squared_norm`` is that of all stages now."""
        if self._rate is not None:
            clip = clip_factor(self.squared_norm, self.method.max_grad_norm)
            self.inner.step(clip, self._rate)
            if self.labels is not None:
                self.labels.step(clip, self._rate)
            self._rate = None

    def take_query_gradient(self) -> None:
        """Turn a query's gradient into meta-gradients."""
        self.inner.take_query_gradient()
        if self.labels is not None:
            self.labels.take_query_gradient()
