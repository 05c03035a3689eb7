"""Which ranks compute more slowly than they should, told from what all have measured of the same steps."""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from statistics import fmean, median

TOO_SLOW = 1.5  # times the median
IN_A_ROW = 5  # steps that a rank must have been too slow, so that a hiccup is none
AGAIN_AFTER = 100  # steps before the same rank is named again
_PAST = 100  # steps of its own that a rank is compared with,
_ENOUGH = 10  # and the fewest


class Stragglers:
    """Watches the ranks of a grid, whose rank is stage x replicas + replica.

    Replicas of a stage do the same work, so a rank is held against the others of its stage: more than `TOO_SLOW` times
    their median for `IN_A_ROW` steps, and it is a straggler. Without replicas it is held against its own past. Stages
    are not compared: a cut need not be even.

    Args:
        num_replicas: copies of the pipeline.
        world_size: number of ranks.
    """

    def __init__(self, num_replicas: int, world_size: int) -> None:
        self.num_replicas = num_replicas
        self._slow_for = [0] * world_size
        self._named_at: dict[int, int] = {}
        self._past: list[deque[float]] = [deque(maxlen=_PAST) for _ in range(world_size)]

    def note(self, step: int, seconds: Sequence[float]) -> dict[int, float]:
        """Take in a step.

        Args:
            step: its number.
            seconds: that each rank computed, for work of the same size; 0 where that is not known.

        Returns:
            The stragglers to be named now: how many times as long as it should each took in this step.
        """
        found = {}
        stages = [
            sorted(seconds[first : first + self.num_replicas]) for first in range(0, len(seconds), self.num_replicas)
        ]
        for rank, own in enumerate(seconds):
            usual = self._usual(rank, own, stages[rank // self.num_replicas])
            self._past[rank].append(own)
            is_slow = usual > 0 and own > TOO_SLOW * usual
            self._slow_for[rank] = self._slow_for[rank] + 1 if is_slow else 0
            is_new = step >= self._named_at.get(rank, step - AGAIN_AFTER) + AGAIN_AFTER
            if self._slow_for[rank] >= IN_A_ROW and is_new:
                self._named_at[rank] = step
                found[rank] = own / usual
        return found

    def _usual(self, rank: int, own: float, of_stage: Sequence[float]) -> float:
        """What a rank should take; 0 where that is not known yet."""
        if self.num_replicas > 1:
            return _median_of_others(of_stage, own) if of_stage[0] > 0 else 0.0
        known = [value for value in self._past[rank] if value > 0]
        return median(known) if len(known) >= _ENOUGH else 0.0


def _median_of_others(ascending: Sequence[float], own: float) -> float:
    """The median of all values but one that is ``own``; there may be hundreds, so they are not sorted again."""
    place, count = bisect_left(ascending, own), len(ascending) - 1
    return fmean(ascending[middle + (middle >= place)] for middle in ((count - 1) // 2, count // 2))
