"""What is to be learned, and how: tasks in batches, and the learner's settings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ds_bert.engine.execution import MicroBatch
from ds_bert.meta.plan import Pass
from ds_bert.meta.selection import Selection
from ds_bert.meta.task import Method


@dataclass(frozen=True)
class TaskBatches:
    """One task of a replica.

    Args:
        number: in the global batch, counted over all replicas.
        num_classes: N.
        support: batches; the first makes the label embeddings.
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
        passes: of a task, see `ds_bert.meta.plan.task_passes`.
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
