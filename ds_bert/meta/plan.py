"""The passes of one task through the model, in their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["generate", "support", "query", "close", "predict"]


@dataclass(frozen=True)
class Pass:
    """One batch of a task through the model.

    Args:
        kind: "generate" makes the label embeddings; "support" is an inner step; "query" measures; "close" brings
            the gradient of the label embeddings back to the network; "predict" is forward only.
        part: which of the support's batches; not used by queries.
        weight: of a query's loss.
        number: of its dropout: "generate" and "close" are the same batch with the same dropout.
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

    The support's first batch makes the label embeddings; each of the others is an inner step, ``inner_epochs`` times.

    Args:
        num_batches: of the support.
        inner_epochs: times that the support is gone through.
        every: inner steps between two queries; 0: at the beginning and at the end only.
    """
    order = [part for _ in range(inner_epochs) for part in range(1, num_batches)]
    steps = query_steps(len(order), every)
    weights = dict(zip(steps, query_weights(steps, len(order)), strict=True))
    passes = [Pass("generate")]
    for step in range(len(order) + 1):
        if step:
            passes.append(Pass("support", order[step - 1], number=len(passes)))
        if step in weights:
            passes.append(Pass("query", weight=weights[step], number=len(passes)))
    return [*passes, Pass("close")]
