"""Which examples belong to optimizer step t: by arithmetic on t alone, so resuming needs nothing but the step."""

import numpy as np

from ds_bert.data.randomness import permutation
from ds_bert.errors import UserError


class GlobalBatchSampler:
    """Deal the shuffled examples of endless epochs into global batches.

    The epochs' orders are laid end to end and cut every ``global_batch_size`` examples. So every example is seen once
    an epoch, and the batch that an epoch ends in is completed from the beginning of the next. Every epoch must have the
    same number of examples (`PretrainingDataset` guarantees it).
    """

    def __init__(self, num_examples: int, global_batch_size: int, seed: int) -> None:
        if num_examples < 1 or global_batch_size < 1:
            raise UserError(
                f"{num_examples} examples in global batches of {global_batch_size}: both must be at least 1"
            )
        self.num_examples = num_examples
        self.global_batch_size = global_batch_size
        self.seed = seed
        self._orders: dict[int, np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> int:
        """The optimizer steps that it takes to see every example once, rounded up."""
        return -(-self.num_examples // self.global_batch_size)

    def samples(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (epochs, numbers) of step ``step`` (from 0), each int64 of shape (global_batch_size,), in order."""
        return self._deal(step * self.global_batch_size + np.arange(self.global_batch_size))

    def micro_batch(
        self, step: int, replica: int, index: int, micro_batch_size: int, num_replicas: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (epochs, numbers) of a replica's ``index``-th micro-batch, each int64 of shape (micro_batch_size,).

        Micro-batches are numbered across replicas, so the global batch is the same for every number of them.
        """
        first = _first_of_micro_batch(replica, index, micro_batch_size, num_replicas, self.global_batch_size)
        return self._deal(step * self.global_batch_size + first + np.arange(micro_batch_size))

    def _deal(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epochs, places_in_epoch = np.divmod(places, self.num_examples)
        numbers = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            numbers[chosen] = self._order(int(epoch))[places_in_epoch[chosen]]
        return epochs, numbers

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            for old in sorted(self._orders)[:-1]:  # an epoch's order is large; a batch seldom spans more than two
                del self._orders[old]
            self._orders[epoch] = permutation(self.num_examples, self.seed, epoch)
        return self._orders[epoch]


def _first_of_micro_batch(replica: int, index: int, size: int, num_replicas: int, global_batch_size: int) -> int:
    first = (index * num_replicas + replica) * size
    if not 0 <= replica < num_replicas or index < 0 or first + size > global_batch_size:
        raise ValueError(
            f"micro-batch {index} of replica {replica} (of {num_replicas}), {size} examples each, "
            f"lies outside a global batch of {global_batch_size}"
        )
    return first
