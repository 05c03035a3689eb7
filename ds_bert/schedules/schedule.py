"""What a schedule is: the order in which each stage computes, and what the engine must know besides."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ds_bert.schedules.instructions import Backward, Forward
from ds_bert.schedules.simulator import simulate

Order = Callable[[int, int, int], Iterator[Forward | Backward]]
"""(stage, stages, micro-batches of a global batch) -> what that stage computes, micro-batches numbered from 0."""


@dataclass(frozen=True)
class Schedule:
    """A schedule that ends each global batch, and updates the weights, before the next one begins.

    A subclass may overlap global batches, by `never_drains`; see `ds_bert.schedules.two_bw`.

    Args:
        order: of one global batch.
    """

    order: Order

    @property
    def never_drains(self) -> bool:
        """Whether global batches overlap. Their micro-batches are then numbered through the whole run."""
        return False

    @property
    def weight_versions(self) -> int:
        """Weight versions that are alive at once."""
        return 2 if self.never_drains else 1

    def weight_version(self, global_batch: int) -> int:
        """Version of the weights that a global batch, numbered from 0, computes with."""
        return global_batch

    def step(
        self, stage: int, num_stages: int, micro_batches: int, global_batch: int, drained: int
    ) -> Iterator[Forward | Backward]:
        """Order what a stage does for a global batch.

        Args:
            stage, num_stages: which stage of how many.
            micro_batches: of a global batch.
            global_batch: its number.
            drained: micro-batches of the run that have had their backward in a `drain`.
        """
        return self.order(stage, num_stages, micro_batches)

    def drain(self, stage: int, num_stages: int, done: int, drained: int) -> Iterator[Backward]:
        """Order the backwards that are open on a stage after ``done`` forwards of the run."""
        return iter(())

    def refusal(self, num_stages: int, micro_batches: int, scales_loss: bool) -> str | None:
        """Say why it cannot run a job, in one sentence that begins with a flag; None where it can.

        Args:
            num_stages: of the job.
            micro_batches: of its global batch, per replica.
            scales_loss: whether a step may turn out to have overflowed, as in fp16.
        """
        return None

    def bubble_share(self, num_stages: int, micro_batches: int) -> float:
        """Share of a step in which a stage of an evenly cut pipeline has nothing to do."""
        return simulate([self.order(stage, num_stages, micro_batches) for stage in range(num_stages)]).bubble_share
