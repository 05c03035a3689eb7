"""An episode: one small classification task, with examples to learn from and examples to be judged by."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ds_bert.data.features import Features
from ds_bert.data.sampler import permutation
from ds_bert.errors import UserError


@dataclass(frozen=True)
class Episode:
    """One task of a meta-training step.

    Args:
        support: what the task is learned from; its column ``labels`` is int64 of (S,), below ``num_classes``. Every
            class is among them.
        query: what the learned task is judged by, with the same column of (Q,). No example is in both.
        num_classes: N of an N-way task.
        name: where it comes from, for messages and logs.
    """

    support: Features
    query: Features
    num_classes: int
    name: str


class TaskShapes(NamedTuple):
    """What is known of all tasks of a source at once, a row each, without reading them.

    Args:
        longest: tokens of a task's longest sequence, (tasks,).
        support: examples to learn it from, (tasks,).
        classes: N, (tasks,).
        has_pairs: whether some sequence has a second segment, bool (tasks,).
    """

    longest: np.ndarray
    support: np.ndarray
    classes: np.ndarray
    has_pairs: np.ndarray


class EpisodeSource(Protocol):
    """Deals episodes."""

    def __len__(self) -> int:
        """Return the episodes of one pass: of numbers 0 to ``len(source) - 1``."""
        ...

    def episode(self, number: int, seed: int) -> Episode:
        """Return the ``number``-th episode (from 0, without end), which follows from (seed, number) alone.

        A meta-training step of T tasks takes the numbers ``step * T + index``, with ``index`` counted across
        replicas, so that a step holds the same tasks for every number of replicas.
        """
        ...


class TaskSource(EpisodeSource, Protocol):
    """Deals episodes of one file or folder."""

    def shapes(self) -> TaskShapes:
        """Look at all tasks; where episodes are drawn anew in each pass, one row stands for all."""
        ...

    def title(self, row: int) -> str:
        """Return what messages call the task of a row of `shapes`."""
        ...


def support_batches(episode: Episode, num_batches: int, seed: int, number: int) -> list[np.ndarray]:
    """Cut the support set into batches. Sizes differ by one at most, nothing is left out.

    Args:
        episode: the task.
        num_batches: how many; the first of them also makes the label embeddings.
        seed: of the run.
        number: of the episode.

    Returns:
        Example numbers of ``episode.support``, int64, one array for each batch. The first holds every class.

    Raises:
        UserError: the support set is too small for that many batches.
    """
    if not fits_batches(len(episode.support), episode.num_classes, num_batches):
        raise UserError(misfit(episode.name, len(episode.support), episode.num_classes, num_batches))
    order = stratified_order(np.asarray(episode.support.columns["labels"]), seed, number, 0)
    return np.array_split(order, num_batches)


def order_of_batches(num_batches: int, inner_epochs: int, seed: int, number: int) -> list[int]:
    """Say which batch of a support set comes when: first the one that makes the label embeddings, then the steps.

    The steps of the first pass take the batches 1 to n - 1 as they lie. Before each further pass, all n batches are
    shuffled, and those behind the first are taken: one is left out, and the first batch of all may be a step
    (iesl/metanlp and theTB/meta_adapters, in the loop over ``inner_epochs``).

    Args:
        num_batches: n.
        inner_epochs: passes.
        seed, number: of the run and the episode.
    """
    order = list(range(num_batches))
    for epoch in range(1, inner_epochs):
        order += permutation(num_batches, seed, number, epoch)[1:].tolist()
    return order


def fits_batches(support: Any, classes: Any, num_batches: int) -> Any:
    """Whether ``support`` examples of ``classes`` classes can be cut into so many batches; of numbers, or of arrays."""
    first = -(-support // max(num_batches, 1))
    return (num_batches >= 1) & (num_batches <= support) & (first >= classes)


def misfit(name: str, support: int, classes: int, num_batches: int) -> str:
    """Say that they cannot."""
    return (
        f"{name}: {support} support examples in --num_batches {num_batches}; the first batch needs one of each of the "
        f"{classes} classes, and no batch may be empty"
    )


def stratified_order(labels: np.ndarray, *counters: int) -> np.ndarray:
    """Return a random order in which every class is spread evenly; it begins with one example of each class.

    Args:
        labels: int64 (examples,).
        counters: what the order is for, such as (seed, epoch).

    Returns:
        int64 (examples,).
    """
    order = permutation(len(labels), *counters)
    shuffled = labels[order]
    rank = np.empty(len(labels), dtype=np.int64)  # among the examples of its class
    for label in np.unique(shuffled):
        members = np.flatnonzero(shuffled == label)
        rank[members] = np.arange(len(members))
    counts = np.bincount(shuffled)
    return order[np.argsort(rank / counts[shuffled], kind="stable")]
