"""Choosing the classes of a task among groups of sentences."""

from dataclasses import dataclass

import numpy as np

from ds_bert.data.randomness import random_bits, uniform
from ds_bert.data.tasks.groups import Groups
from ds_bert.errors import UserError

SAMPLINGS = ("uniform", "log-frequency", "cluster")
_FIRST, _OTHERS = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class Choice:
    """Chooses N groups for a task.

    Args:
        groups: all there are.
        allowed: numbers of those that may be chosen, ascending.
        sampling: "uniform"; "log-frequency": in proportion to the logarithm of a group's size; "cluster": groups of
            one cluster, which are harder to tell apart.
        curriculum: begin with any groups, and choose them ever more alike as the tasks go on.
    """

    groups: Groups
    allowed: np.ndarray
    sampling: str = "uniform"
    curriculum: bool = False

    def require(self, ways: int) -> None:
        """Refuse a choice of more groups than there are.

        Raises:
            UserError: naming how many there are.
        """
        counts = np.bincount(self.groups.clusters[self.allowed], minlength=1)
        found = int(counts.max() if self.sampling == "cluster" else counts.sum())
        where = " in the largest cluster" if self.sampling == "cluster" else ""
        if found < ways:
            raise UserError(
                f"--ways {ways}: only {found} words or sentence clusters{where} have the sentences that a task needs; "
                "give more text, fewer --ways or a lower --min_frequency, or examples"
            )

    def choose(self, ways: int, progress: float, *counters: int) -> np.ndarray:
        """Return ``ways`` distinct groups in random order, int64.

        Args:
            ways: how many, of which `require` found enough.
            progress: how far on the task is among all, from 0 to 1; it decides how alike the groups are in a
                curriculum.
            counters: what the choice is for.
        """
        candidates = self.allowed
        if self.sampling == "cluster":
            clusters = self.groups.clusters[candidates]
            sizes = np.bincount(clusters)
            cluster = weighted_sample(np.where(sizes >= ways, sizes, 0), 1, *counters, _FIRST)[0]
            candidates = candidates[clusters == cluster]
        if not self.curriculum:
            return candidates[weighted_sample(self._weights(candidates), ways, *counters, _OTHERS)]
        first = candidates[weighted_sample(self._weights(candidates), 1, *counters, _FIRST, 1)[0]]
        near = self._nearest(first, candidates[candidates != first], ways, progress)
        others = near[weighted_sample(self._weights(near), ways - 1, *counters, _OTHERS)]
        return np.concatenate([[first], others])

    def _weights(self, candidates: np.ndarray) -> np.ndarray:
        if self.sampling != "log-frequency":
            return np.ones(len(candidates))
        return np.log(self.groups.starts[candidates + 1] - self.groups.starts[candidates])

    def _nearest(self, first: int, others: np.ndarray, ways: int, progress: float) -> np.ndarray:
        """Of the other groups, keep those most like ``first``: all at the beginning, twice the ways at the end."""
        fewest = min(2 * ways, len(others))
        kept = round(fewest * (len(others) / fewest) ** (1.0 - progress))
        similarity = self.groups.vectors[others] @ self.groups.vectors[first]
        return others[np.sort(np.argsort(-similarity, kind="stable")[:kept])]


def weighted_sample(weights: np.ndarray, count: int, *counters: int) -> np.ndarray:
    """Draw distinct places, one after the other, in proportion to the weights of those that are left.

    Args:
        weights: float (places,), at least ``count`` of them above 0.
        count: how many to draw.
        counters: what they are for.

    Returns:
        int64 (count,), in the order drawn.
    """
    possible = np.flatnonzero(weights > 0)
    waiting = -np.log1p(-uniform(random_bits(*counters, possible))) / weights[possible]  # exponential, of that rate
    return possible[np.argsort(waiting, kind="stable")[:count]]
