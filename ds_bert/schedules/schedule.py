"""What a schedule is, the words it is written in, and the schedules that end a global batch before the next begins.

A schedule says in which order one stage computes; `instructions` adds the sends and receives that this order needs, so
that a schedule is readable as a list of forwards and backwards.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """One thing a stage does to one micro-batch, numbered from 0 within its replica's part of the global batch."""

    micro_batch: int


class Forward(Instruction):
    """Compute the stage's layers."""


class Backward(Instruction):
    """Compute the gradients of the stage's layers and of its input."""


class ReceiveActivation(Instruction):
    """Get the stage's input from the stage before."""


class SendActivation(Instruction):
    """Give the stage's output to the next stage."""


class ReceiveGradient(Instruction):
    """Get the gradient of the stage's output from the next stage."""


class SendGradient(Instruction):
    """Give the gradient of the stage's input to the stage before."""


def instructions(order: Iterable[Forward | Backward], stage: int, num_stages: int) -> Iterator[Instruction]:
    """Add to the computations of ``stage`` the sends and receives they need, each at the latest or earliest moment."""
    first, last = stage == 0, stage == num_stages - 1
    for step in order:
        if isinstance(step, Forward):
            if not first:
                yield ReceiveActivation(step.micro_batch)
            yield step
            if not last:
                yield SendActivation(step.micro_batch)
        else:
            if not last:
                yield ReceiveGradient(step.micro_batch)
            yield step
            if not first:
                yield SendGradient(step.micro_batch)


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


def gpipe(stage: int, num_stages: int, micro_batches: int) -> Iterator[Forward | Backward]:
    """Order one global batch on ``stage``; every stage does the same.

    All m micro-batches are in flight at once. The pipeline idles for the same share as under 1F1B. Any m works.
    """
    for micro_batch in range(micro_batches):
        yield Forward(micro_batch)
    for micro_batch in range(micro_batches):
        yield Backward(micro_batch)


def one_f_one_b(stage: int, num_stages: int, micro_batches: int) -> Iterator[Forward | Backward]:
    """Order one global batch on ``stage``: fill, then alternate one forward and one backward, then drain.

    Stage s runs ``min(p - 1 - s, m)`` forwards ahead, so at most ``p - s`` micro-batches are in flight. With m
    micro-batches on p equal stages the pipeline idles for the share (p - 1) / (m + p - 1) of the time. Any m works.
    """
    warmup = min(num_stages - 1 - stage, micro_batches)
    for micro_batch in range(warmup):
        yield Forward(micro_batch)
    for micro_batch in range(warmup, micro_batches):
        yield Forward(micro_batch)
        yield Backward(micro_batch - warmup)
    for micro_batch in range(micro_batches - warmup, micro_batches):
        yield Backward(micro_batch)


def tasks_in_flight(stage: int, num_stages: int, passes: int, tasks: int) -> Iterator[Forward | Backward]:
    """Order passes on ``stage``, the tasks taking turns: pass u may begin once pass u - ``tasks`` has had its backward.

    Stage s runs ``min(p - 1 - s, tasks - 1)`` forwards ahead. With at least as many tasks as stages, no stage of an
    even cut waits after the first passes: a task's serial steps are filled with the others'. One task alone leaves
    all stages but one idle.
    """
    warmup = min(num_stages - 1 - stage, tasks - 1)
    for number in range(passes):
        yield Forward(number)
        if number >= warmup:
            yield Backward(number - warmup)
    for number in range(max(0, passes - warmup), passes):
        yield Backward(number)
