"""The words a schedule is written in, and the communication that follows from an order of computing.

A schedule says in which order one stage computes; `instructions` adds the sends and receives that this order needs, so
that a schedule is readable as a list of forwards and backwards.
"""

from collections.abc import Iterable, Iterator
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
