"""From episodes to a replica's tasks, cut into batches."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ds_bert.data.features import Features
from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.process_group import Grid
from ds_bert.meta.task import TaskBatches
from ds_bert.meta.tasks.episode import EpisodeSource, order_of_batches, support_batches
from ds_bert.training.data_loader import split_features


@dataclass(frozen=True)
class TaskSampler:
    """Counts tasks: step t takes the numbers from t · ``global_batch_size`` on.

    Args:
        global_batch_size: tasks of a step.
        num_tasks: of an epoch.
    """

    global_batch_size: int
    num_tasks: int

    @property
    def steps_per_epoch(self) -> float:
        """The optimizer steps that it takes to see as many tasks as an epoch has."""
        return self.num_tasks / self.global_batch_size


class TaskLoader:
    """Makes this process's tasks; every stage reads them, since every stage needs their shapes.

    Args:
        source: of tasks.
        grid: this process's place.
        num_batches: of a support set.
        inner_epochs: times that a support set is gone through.
        seed: of the order of tasks, and of the examples in each.
    """

    def __init__(self, source: EpisodeSource, grid: Grid, num_batches: int, inner_epochs: int, seed: int) -> None:
        self.source, self.grid, self.seed = source, grid, seed
        self.num_batches, self.inner_epochs = num_batches, inner_epochs

    def step(self, sampler: Any, step: int, size: int, count: int) -> list[TaskBatches]:
        """The ``count`` tasks that this replica adapts to in outer step ``step``; ``size`` is not used."""
        replica, replicas = self.grid.replica, self.grid.num_replicas
        first = step * sampler.global_batch_size
        return [self._task(first, index * replicas + replica) for index in range(count)]

    def _task(self, first: int, place: int) -> TaskBatches:
        number = first + place
        episode = self.source.episode(number, self.seed)
        parts = support_batches(episode, self.num_batches, self.seed, number)
        batches = [micro_batch(episode.support, part) for part in parts]
        order = order_of_batches(self.num_batches, self.inner_epochs, self.seed, number)
        support = [batches[part] for part in order]
        query = micro_batch(episode.query, np.arange(len(episode.query)))
        return TaskBatches(place, episode.num_classes, support, query)


def micro_batch(features: Features, examples: np.ndarray, number: int = 0) -> MicroBatch:
    """Some examples as one batch of the pipeline."""
    inputs, labels = split_features(features.batch(0, examples))
    shape = (*inputs["input_ids"].shape, int("attention_mask" in inputs))
    return MicroBatch(number, shape, inputs, labels)
