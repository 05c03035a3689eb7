"""Which examples make up a batch; and random numbers that follow from what they are for, not from those drawn before.

``random_bits(seed, epoch, example, position)`` is the same 64 bits in every process and for every way to batch, because
nothing is drawn in sequence: the counters themselves are hashed, by the finaliser of splitmix64. Whole arrays at once.
"""

import numpy as np

from ds_bert.errors import UserError

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def random_bits(*counters: "int | np.ndarray") -> np.ndarray:
    """Hash integer counters, broadcast against each other, to uniform uint64 of their common shape (at least 1-d).

    Put the counters that vary least first: arrays grow only as they are met. The order of the counters matters.
    """
    state = np.zeros(1, dtype=np.uint64)
    for counter in counters:
        state = _mix((state ^ _as_uint64(counter)) + _WEYL)
    return state


def _as_uint64(counter: "int | np.ndarray") -> np.ndarray:
    if isinstance(counter, np.ndarray):
        return counter.astype(np.uint64, copy=False)
    return np.array([counter & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


def uniform(bits: np.ndarray) -> np.ndarray:
    """Turn random bits into float64 in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(bits: np.ndarray, limit: "int | np.ndarray") -> np.ndarray:
    """Turn random bits into int64 in [0, limit), for 1 <= limit < 2³²; the bias is below limit / 2³²."""
    limits = np.asarray(limit).astype(np.uint64)
    return (((bits >> np.uint64(32)) * limits) >> np.uint64(32)).astype(np.int64)


def permutation(count: int, *counters: int) -> np.ndarray:
    """Return the random order of ``count`` things that the counters name, as int64 of shape (count,)."""
    return np.argsort(random_bits(*counters, np.arange(count)), kind="stable")


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
    def steps_per_epoch(self) -> float:
        """The optimizer steps that it takes to see every example once."""
        return self.num_examples / self.global_batch_size

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


class LengthGroupedSampler:
    """Deal the same examples as `GlobalBatchSampler`, so that those of a micro-batch are about equally long.

    The examples of up to ``window`` consecutive global batches are sorted by length and cut into as many global batches
    again, which come in a shuffled order. No window reaches over the end of an epoch, so that whole epochs see the same
    examples as without. A global batch, sorted too, is dealt out so that at any time all replicas compute micro-batches
    of about the same length; which examples belong to it does not depend on the number of replicas or micro-batches.

    Args:
        lengths: tokens of each example, int64 (examples,).
        global_batch_size: examples of an optimizer step.
        seed: of the order.
        window: global batches that may exchange examples; 1 keeps every global batch as it was drawn.
    """

    def __init__(self, lengths: np.ndarray, global_batch_size: int, seed: int, window: int = 1) -> None:
        self.lengths, self.seed, self.window = lengths, seed, window
        self._drawn = GlobalBatchSampler(len(lengths), global_batch_size, seed)
        self.num_examples, self.global_batch_size = len(lengths), global_batch_size
        self._sorted: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> float:
        """The optimizer steps that it takes to see every example once."""
        return self._drawn.steps_per_epoch

    def samples(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (epochs, numbers) of step ``step``, each int64 of shape (global_batch_size,), longest first."""
        first, last = self._window_of(step)
        if self._sorted is None or self._sorted[0] != first:
            epochs, numbers = (
                np.concatenate(part) for part in zip(*map(self._drawn.samples, range(first, last)), strict=True)
            )
            order = np.argsort(-self.lengths[numbers], kind="stable")
            shape = (last - first, self.global_batch_size)
            shuffled = permutation(last - first, self.seed, first)
            self._sorted = first, epochs[order].reshape(shape)[shuffled], numbers[order].reshape(shape)[shuffled]
        _, epochs, numbers = self._sorted
        return epochs[step - first], numbers[step - first]

    def micro_batch(
        self, step: int, replica: int, index: int, micro_batch_size: int, num_replicas: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (epochs, numbers) of a replica's ``index``-th micro-batch, each int64 of shape (micro_batch_size,)."""
        first = _first_of_micro_batch(replica, index, micro_batch_size, num_replicas, self.global_batch_size)
        epochs, numbers = self.samples(step)
        return epochs[first : first + micro_batch_size], numbers[first : first + micro_batch_size]

    def _window_of(self, step: int) -> tuple[int, int]:
        """The steps, half open, that exchange examples with ``step``."""
        epoch_end = 0
        epoch = step * self.global_batch_size // self.num_examples
        while epoch_end <= step:
            epoch_begin, epoch_end = self._steps_before(epoch), self._steps_before(epoch + 1)
            epoch += 1
        first = epoch_begin + (step - epoch_begin) // self.window * self.window
        return first, min(first + self.window, epoch_end)

    def _steps_before(self, epoch: int) -> int:
        return round(epoch * self.num_examples / self.global_batch_size)


def _first_of_micro_batch(replica: int, index: int, size: int, num_replicas: int, global_batch_size: int) -> int:
    first = (index * num_replicas + replica) * size
    if not 0 <= replica < num_replicas or index < 0 or first + size > global_batch_size:
        raise ValueError(
            f"micro-batch {index} of replica {replica} (of {num_replicas}), {size} examples each, "
            f"lies outside a global batch of {global_batch_size}"
        )
    return first
