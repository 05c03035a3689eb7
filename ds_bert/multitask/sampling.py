"""Which examples of which tasks belong to optimizer step t.

All but MT-Uncertainty's picks follow from the seed and t alone. Its candidates do, too; what is picked follows from the
weights, which a resumed run has as they were. So all that is stored is which examples were seen, for the report.
"""

import base64
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from ds_bert.data.sampler import LengthGroupedSampler, permutation

KINDS = ("sequential", "proportional", "uniform", "uncertainty")


class TaskStreams:
    """Every task's examples as an endless stream, in a new order on each pass.

    Args:
        sizes: examples of each task; they are numbered through all tasks, one task after another.
        seed: of the orders.
    """

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        self.sizes, self.seed = np.array(sizes, dtype=np.int64), seed
        self.first = np.cumsum(self.sizes) - self.sizes
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def numbers(self, task: int, places: np.ndarray) -> np.ndarray:
        """Return the numbers of the examples at these places of a task's stream, both int64 (count,)."""
        passes, within = np.divmod(places, self.sizes[task])
        numbers = np.empty_like(places)
        for number in np.unique(passes).tolist():
            chosen = passes == number
            numbers[chosen] = self._order(task, number)[within[chosen]]
        return self.first[task] + numbers

    def _order(self, task: int, number: int) -> np.ndarray:
        """Order of a task's examples on one pass; the last one asked for is kept."""
        if self._orders.get(task, (None,))[0] != number:
            self._orders[task] = number, permutation(int(self.sizes[task]), self.seed, task, number)
        return self._orders[task][1]


class TaskSampler:
    """Deals out each step's global batch, longest examples first, and remembers what was seen.

    Args:
        lengths: tokens of each example, int64 (examples,).
        sizes: examples of each task.
        global_batch_size: examples of an optimizer step.
        seed: of the order.
    """

    def __init__(self, lengths: np.ndarray, sizes: Sequence[int], global_batch_size: int, seed: int) -> None:
        self.lengths, self.sizes, self.global_batch_size, self.seed = lengths, list(sizes), global_batch_size, seed
        self.num_examples = len(lengths)
        self.streams = TaskStreams(sizes, seed)
        self.seen = np.zeros(len(lengths), dtype=bool)
        self._dealt: tuple[int, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> float:
        """The optimizer steps that all tasks' examples fill."""
        return self.num_examples / self.global_batch_size

    def draw(self, step: int) -> np.ndarray:
        """Choose the examples of a step, int64 (global_batch_size,)."""
        raise NotImplementedError

    def samples(self, step: int) -> np.ndarray:
        """Return the examples of a step, longest first, int64 (global_batch_size,)."""
        if self._dealt is None or self._dealt[0] != step:
            numbers = self.draw(step)
            self.seen[numbers] = True
            self._dealt = step, numbers[np.argsort(-self.lengths[numbers], kind="stable")]
        return self._dealt[1]

    def micro_batch(
        self, step: int, replica: int, index: int, micro_batch_size: int, num_replicas: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (epochs, numbers) of a replica's ``index``-th micro-batch, each int64 (micro_batch_size,).

        Micro-batches are numbered across replicas: which examples a step has does not depend on how many there are.
        """
        first = (index * num_replicas + replica) * micro_batch_size
        numbers = self.samples(step)[first : first + micro_batch_size]
        return np.zeros_like(numbers), numbers

    def shares_seen(self) -> list[float]:
        """Share of each task's examples that were in a batch so far."""
        return [float(part.mean()) for part in np.split(self.seen, self.streams.first[1:])]

    def state(self) -> dict[str, str]:
        """What a checkpoint keeps of it, as JSON."""
        return {"seen": base64.b64encode(zlib.compress(np.packbits(self.seen).tobytes())).decode()}

    def load(self, state: dict[str, str]) -> None:
        """Take over what `state` gave."""
        bits = np.frombuffer(zlib.decompress(base64.b64decode(state["seen"])), dtype=np.uint8)
        self.seen = np.unpackbits(bits, count=self.num_examples).astype(bool)


class ProportionalSampler(TaskSampler):
    """All tasks' examples in one shuffled order: a task is met as often as its size says, each example once an epoch.

    Args:
        window: steps that may exchange examples, so that those of a batch are about equally long.
    """

    def __init__(
        self, lengths: np.ndarray, sizes: Sequence[int], global_batch_size: int, seed: int, window: int = 1
    ) -> None:
        super().__init__(lengths, sizes, global_batch_size, seed)
        self._all = LengthGroupedSampler(lengths, global_batch_size, seed, window)

    def draw(self, step: int) -> np.ndarray:
        """Choose the examples of a step."""
        return self._all.samples(step)[1]


class UniformSampler(TaskSampler):
    """All tasks equally often: as many examples as there are tasks hold one of each, in a shuffled order."""

    def draw(self, step: int) -> np.ndarray:
        """Choose the examples of a step."""
        count = len(self.sizes)
        slots = step * self.global_batch_size + np.arange(self.global_batch_size)
        rounds, within = np.divmod(slots, count)
        orders = [permutation(count, self.seed, count, number) for number in range(rounds[0], rounds[-1] + 1)]
        tasks = np.stack(orders)[rounds - rounds[0], within]
        numbers = np.empty_like(slots)
        for task in np.unique(tasks).tolist():
            chosen = tasks == task
            numbers[chosen] = self.streams.numbers(task, rounds[chosen])  # a round takes one example of each task
        return numbers


class SequentialSampler(TaskSampler):
    """A step holds one task's examples; the tasks take turns, each until its data have run out in this epoch.

    A task's last batch of an epoch is completed from its next pass.
    """

    def __init__(self, lengths: np.ndarray, sizes: Sequence[int], global_batch_size: int, seed: int) -> None:
        super().__init__(lengths, sizes, global_batch_size, seed)
        self.turns = [-(-size // global_batch_size) for size in sizes]
        pairs = [np.stack([np.arange(count), np.full(count, task)]) for task, count in enumerate(self.turns)]
        turns = np.concatenate(pairs, axis=1)
        self.schedule = turns[:, np.lexsort((turns[1], turns[0]))].T

    @property
    def steps_per_epoch(self) -> float:
        """The optimizer steps that all tasks' examples fill, each task by itself."""
        return len(self.schedule)

    def draw(self, step: int) -> np.ndarray:
        """Choose the examples of a step."""
        epoch, place = divmod(step, len(self.schedule))
        turn, task = self.schedule[place].tolist()
        first = (epoch * self.turns[task] + turn) * self.global_batch_size
        return self.streams.numbers(task, first + np.arange(self.global_batch_size))


class UncertaintySampler(TaskSampler):
    """A step's candidates are as many examples of every task as a global batch has; ``choose`` picks the batch.

    Args:
        choose: from the candidates' numbers, int64 (tasks, global_batch_size), to places in the flattened array; all
            processes call it at the same time.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        sizes: Sequence[int],
        global_batch_size: int,
        seed: int,
        choose: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        super().__init__(lengths, sizes, global_batch_size, seed)
        self.choose = choose

    def draw(self, step: int) -> np.ndarray:
        """Choose the examples of a step."""
        places = step * self.global_batch_size + np.arange(self.global_batch_size)
        candidates = np.stack([self.streams.numbers(task, places) for task in range(len(self.sizes))])
        return candidates.reshape(-1)[self.choose(candidates)]
