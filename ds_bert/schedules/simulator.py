"""Play a schedule through: who computes what when, who waits, how many activations are alive. No torch, any size."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ds_bert.schedules.schedule import Backward, Forward, Schedule


class Deadlock(Exception):
    """The stages wait for each other."""


@dataclass(frozen=True)
class Computation:
    """A forward or backward of one micro-batch, from ``begin`` to ``end`` in units of time."""

    is_forward: bool
    micro_batch: int
    begin: float
    end: float


@dataclass(frozen=True)
class Simulation:
    """What each stage did.

    Args:
        stages: each stage's computations in order.
    """

    stages: tuple[tuple[Computation, ...], ...]

    @property
    def makespan(self) -> float:
        """Time from the first computation's begin to the last one's end."""
        return max(stage[-1].end for stage in self.stages)

    def busy(self, stage: int) -> float:
        """Time that a stage computed."""
        return sum(step.end - step.begin for step in self.stages[stage])

    @property
    def bubble_share(self) -> float:
        """Share of all stages' time in which they had nothing to do."""
        return 1.0 - sum(self.busy(stage) for stage in range(len(self.stages))) / (len(self.stages) * self.makespan)

    def live_activations(self, stage: int) -> int:
        """Most micro-batches that were between their forward and the end of their backward on a stage."""
        alive = most = 0
        for step in self.stages[stage]:
            alive += 1 if step.is_forward else -1
            most = max(most, alive)
        return most

    def longest_wait(self, stage: int) -> float:
        """Longest time between two computations of a stage."""
        return max((after.begin - before.end for before, after in pairwise(self.stages[stage])), default=0.0)


def simulate(
    orders: Sequence[Iterable[Forward | Backward]],
    forward: Sequence[float] | float = 1.0,
    backward: Sequence[float] | float = 2.0,
    transfer: float = 0.0,
) -> Simulation:
    """Run each stage's order as early as its inputs allow.

    Args:
        orders: of the computations of every stage.
        forward, backward: time of one, for all stages or each.
        transfer: time of a message between neighbouring stages, during which both compute on.

    Raises:
        Deadlock: an order waits for what comes only after it.
    """
    programs = [list(order) for order in orders]
    last = len(programs) - 1
    costs = [_costs(cost, len(programs)) for cost in (forward, backward)]
    ends: dict[tuple[bool, int, int], float] = {}  # (is forward, stage, micro-batch) -> end
    done: list[list[Computation]] = [[] for _ in programs]

    def ready_at(step: Forward | Backward, stage: int) -> float | None:
        """When the step's inputs are there; None while what they come from has not run."""
        is_forward = isinstance(step, Forward)
        if is_forward:
            return 0.0 if stage == 0 else _plus(ends.get((True, stage - 1, step.micro_batch)), transfer)
        own = ends.get((True, stage, step.micro_batch))
        if stage == last:
            return own
        gradient = _plus(ends.get((False, stage + 1, step.micro_batch)), transfer)
        return None if own is None or gradient is None else max(own, gradient)

    progress = True
    while progress:
        progress = False
        for stage, program in enumerate(programs):
            while len(done[stage]) < len(program):
                step = program[len(done[stage])]
                ready = ready_at(step, stage)
                if ready is None:
                    break
                is_forward = isinstance(step, Forward)
                begin = max(ready, done[stage][-1].end if done[stage] else 0.0)
                end = begin + costs[0 if is_forward else 1][stage]
                ends[is_forward, stage, step.micro_batch] = end
                done[stage].append(Computation(is_forward, step.micro_batch, begin, end))
                progress = True
    stuck = [stage for stage, program in enumerate(programs) if len(done[stage]) < len(program)]
    if stuck:
        raise Deadlock(f"stages {stuck} wait for each other")
    return Simulation(tuple(tuple(stage) for stage in done))


def _costs(cost: Sequence[float] | float, stages: int) -> Sequence[float]:
    return [cost] * stages if isinstance(cost, int | float) else cost


def _plus(time: float | None, transfer: float) -> float | None:
    return None if time is None else time + transfer


def bubble_share(schedule: Schedule, num_stages: int, micro_batches: int) -> float:
    """Share of a step in which a stage of an evenly cut pipeline has nothing to do; 0 where it never drains."""
    if schedule.never_drains:
        return 0.0
    return simulate([schedule.order(stage, num_stages, micro_batches) for stage in range(num_stages)]).bubble_share
