"""Which task's examples come when: in proportion, uniformly, in turn, or by MT-Uncertainty (section 2.5 of the paper).

Two forms, of an example's entropy H over its task's C labels:

- ``paper``, the default: H / (Ĥ · log C), with Ĥ the greatest of the tasks' mean entropies. Ĥ is one number for all,
  so that the picks are those of the greatest share of the entropy that is possible.
- ``code``, what the published code does: e · ē / max ē, with e = H / log C and ē its mean over the task's candidates.
  Tasks of which the model is uncertain as a whole are preferred.

A regression has no entropy. As in the published code, where MRPC stands in for STS-B, its k-th candidate has the score
of the k-th candidate of a stand-in: MRPC where it is among the tasks, else the smallest task with labels.

All but MT-Uncertainty's picks follow from the seed and t alone. Its candidates do, too; what is picked follows from the
weights, which a resumed run has as they were. So all that is stored is which examples were seen, for the report.
"""

import base64
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from ds_bert.data.sampler import LengthGroupedSampler, permutation
from ds_bert.errors import UserError

FORMS = ("paper", "code")


def entropies(logits: np.ndarray) -> np.ndarray:
    """Entropy of the softmax over the last axis, in nats, float64; logits of minus infinity are of no label."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=-1)
    weighted = np.where(weights > 0, shifted, 0.0) * weights
    return np.log(total) - weighted.sum(axis=-1) / total


def scores(entropy: np.ndarray, labels: Sequence[int], form: str, stand_in: int) -> np.ndarray:
    """Score candidates; the greater, the more uncertain.

    Args:
        entropy: (tasks, candidates of each).
        labels: how many each task has; 0 in regression.
        form: one of `FORMS`.
        stand_in: the task whose scores those with no labels have.

    Returns:
        Float64 (tasks, candidates).
    """
    has_labels = np.array(labels) > 0
    most = np.log(np.maximum(labels, 2))
    share = entropy / most[:, None]
    if form == "paper":
        found = share / (entropy.mean(axis=1)[has_labels].max() or 1.0)
    else:
        means = share.mean(axis=1)
        found = share * (means / (means[has_labels].max() or 1.0))[:, None]
    return np.where(has_labels[:, None], found, found[stand_in])


def most_uncertain(found: np.ndarray, count: int) -> np.ndarray:
    """Places of the ``count`` greatest of all scores, counted through the flattened array; of equal ones, the first."""
    return np.argsort(-found.reshape(-1), kind="stable")[:count]


def stand_in(names: Sequence[str], labels: Sequence[int], sizes: Sequence[int]) -> int:
    """Return the task whose scores regressions have.

    Raises:
        UserError: no task has labels.
    """
    classified = [task for task, count in enumerate(labels) if count > 0]
    if not classified:
        raise UserError(
            f"--use_mt_uncertainty: found only regressions ({', '.join(names)}), needed is a task with labels"
        )
    if "mrpc" in names and names.index("mrpc") in classified:
        return names.index("mrpc")
    return min(classified, key=lambda task: (sizes[task], task))


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
