"""Episodes out of encoded examples, and of several sources mixed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ds_bert.data.features import Features
from ds_bert.data.sampler import below, permutation, random_bits, uniform
from ds_bert.errors import UserError
from ds_bert.meta.tasks.episode import Episode, EpisodeSource, TaskShapes, TaskSource

_ORDER, _FILL, _MIX = 11, 12, 13  # streams of random numbers


def subset(features: Features, numbers: np.ndarray) -> Features:
    """Return some examples, of one sequence each, as features of their own."""
    starts, ends = features.starts[numbers], features.starts[numbers + 1]
    parts = [features.tokens[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    return replace(
        features,
        tokens=np.concatenate(parts or [features.tokens[:0]]),
        starts=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(ends - starts)]),
        first_segments=features.first_segments[numbers],
        columns={name: column[numbers] for name, column in features.columns.items()},
    )


class RecordTasks:
    """Tasks that lie one behind the other among examples: support, then query. Each pass takes them as they lie.

    Args:
        features: the examples, with the column ``labels``.
        num_classes: N of all tasks.
        support, query: examples of a task.
        name: for messages.

    Raises:
        UserError: there is not one whole task, or a class has no support example in one.
    """

    def __init__(self, features: Features, num_classes: int, support: int, query: int, name: str) -> None:
        self._features, self._num_classes, self._name = features, num_classes, name
        self._support, self._size = support, support + query
        _require_sizes(len(features), support, query, name)
        self._require_classes()

    def __len__(self) -> int:
        return len(self._features) // self._size

    def episode(self, number: int, seed: int) -> Episode:
        """Return the task at ``number``, counted round and round; see `EpisodeSource`."""
        task = number % len(self)
        numbers = task * self._size + np.arange(self._size)
        support, query = (subset(self._features, part) for part in np.split(numbers, [self._support]))
        return Episode(support, query, self._num_classes, self.title(task))

    def shapes(self) -> TaskShapes:
        """See `TaskSource`."""
        tasks = len(self)
        longest = self._rows(self._features.lengths).max(axis=1)
        has_pairs = np.asarray(self._rows(self._features.has_pairs).any(axis=1))
        return TaskShapes(longest, np.full(tasks, self._support), np.full(tasks, self._num_classes), has_pairs)

    def title(self, row: int) -> str:
        """See `TaskSource`."""
        return f"{self._name}: task {row}"

    def _rows(self, column: np.ndarray) -> np.ndarray:
        """Return what is known of examples by task, (tasks, examples of a task)."""
        return np.asarray(column)[: len(self) * self._size].reshape(len(self), self._size)

    def _require_classes(self) -> None:
        labels = self._rows(self._features.columns["labels"])[:, : self._support]
        for label in range(self._num_classes):
            missing = np.flatnonzero((labels != label).all(axis=1))
            if len(missing):
                raise UserError(
                    f"{self.title(missing[0])}: none of its {self._support} support examples is of class {label}; "
                    "needs the --train_batch_size and --meta_batchsz that the file was made for, and records in order"
                )


class SupervisedTasks:
    """Episodes drawn from the examples of one data set, shuffled anew in each pass.

    Where a draw leaves a class without a support example, an example of that class takes the place of one of the
    support's most frequent class.

    Args:
        features: the examples, with the column ``labels`` of whole numbers.
        num_classes: N.
        support, query: examples of an episode.
        name: for messages.

    Raises:
        UserError: the examples do not fill one episode, a class has none, or labels are no classes.
    """

    def __init__(self, features: Features, num_classes: int, support: int, query: int, name: str) -> None:
        self._features, self._num_classes, self._name = features, num_classes, name
        self._support, self._size = support, support + query
        _require_sizes(len(features), support, query, name)
        self._labels = np.asarray(features.columns["labels"])
        if self._labels.dtype.kind not in "iu":
            raise UserError(f"{name}: its labels are numbers to predict; meta-training needs classes")
        counts = np.bincount(self._labels, minlength=num_classes)
        if len(counts) != num_classes or not counts.all() or support < num_classes:
            raise UserError(
                f"{name}: {len(counts)} classes with {', '.join(map(str, counts))} examples; needs examples of all "
                f"{num_classes} classes, and {num_classes} support examples or more"
            )
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._labels) // self._size

    def episode(self, number: int, seed: int) -> Episode:
        """Return the ``number``-th episode; see `EpisodeSource`."""
        epoch, place = divmod(number, len(self))
        if (seed, epoch) not in self._orders:
            self._orders = {(seed, epoch): permutation(len(self._labels), seed, _ORDER, epoch)}
        numbers = self._orders[seed, epoch][place * self._size : (place + 1) * self._size].copy()
        for label in range(self._num_classes):
            self._ensure(label, numbers, seed, number)
        support, query = (subset(self._features, part) for part in np.split(numbers, [self._support]))
        return Episode(support, query, self._num_classes, f"{self._name}: episode {number}")

    def shapes(self) -> TaskShapes:
        """See `TaskSource`."""
        features = self._features
        rows = features.lengths.max(), self._support, self._num_classes, features.has_pairs.any()
        return TaskShapes(*(np.array([row]) for row in rows))

    def title(self, row: int) -> str:
        """See `TaskSource`."""
        return self._name

    def _ensure(self, label: int, numbers: np.ndarray, seed: int, number: int) -> None:
        """Put an example of the class among the first, the support's, where there is none."""
        support_labels = self._labels[numbers[: self._support]]
        if (support_labels == label).any():
            return
        given_up = int(np.flatnonzero(support_labels == np.bincount(support_labels).argmax())[-1])
        in_query = self._support + np.flatnonzero(self._labels[numbers[self._support :]] == label)
        if len(in_query):
            numbers[[given_up, in_query[0]]] = numbers[[in_query[0], given_up]]
        else:
            members = np.flatnonzero(self._labels == label)
            numbers[given_up] = members[below(random_bits(seed, _FILL, number, label), len(members))[0]]


class Mixture:
    """Draws each episode from one of several sources.

    Args:
        sources: the sources; each is gone through in its own order.
        weights: how often each is drawn, above 0.
    """

    def __init__(self, sources: Sequence[EpisodeSource], weights: Sequence[float]) -> None:
        self._sources = sources
        self._edges = np.cumsum(weights) / np.sum(weights)
        self._drawn: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return sum(map(len, self._sources))

    def episode(self, number: int, seed: int) -> Episode:
        """Return the ``number``-th episode; see `EpisodeSource`."""
        drawn = self._sources_of(number + 1, seed)
        source = int(drawn[number])
        return self._sources[source].episode(int(np.count_nonzero(drawn[:number] == source)), seed)

    def _sources_of(self, count: int, seed: int) -> np.ndarray:
        """Return which source each of the first ``count`` episodes, or more, is from."""
        drawn = self._drawn.get(seed)
        if drawn is None or len(drawn) < count:
            values = uniform(random_bits(seed, _MIX, np.arange(max(1024, 2 * count))))
            drawn = np.searchsorted(self._edges, values, side="right").clip(max=len(self._sources) - 1)
            self._drawn = {seed: drawn.astype(np.int16)}
        return self._drawn[seed]


@dataclass(frozen=True)
class OpenedFile:
    """The tasks of a file or folder, and the examples that its weight in a mixture follows from."""

    tasks: TaskSource
    num_examples: int


def mix(
    self_supervised: Sequence[OpenedFile],
    supervised: Sequence[OpenedFile],
    pretrain_task_weight: float | None = None,
    square_root: bool = False,
) -> EpisodeSource:
    """Mix files: of n examples, a self-supervised one weighs n, and a supervised one √n, among those of its kind.

    So does the code of Meta-Adapters (theTB/meta_adapters, ``create_data``); metanlp's ``data_sqrt_sampling`` has √n
    for both.

    Args:
        self_supervised, supervised: the files, of at least one kind.
        pretrain_task_weight: share of all episodes that is self-supervised; None: their share of all examples.
        square_root: ``data_sqrt_sampling``: self-supervised ones weigh √n, too.

    Raises:
        UserError: there are no files, or the share does not fit the kinds there are.
    """
    own, labelled = (
        np.array([file.num_examples for file in files], dtype=np.float64) for files in (self_supervised, supervised)
    )
    share = own.sum() / max(own.sum() + labelled.sum(), 1.0) if pretrain_task_weight is None else pretrain_task_weight
    if not self_supervised and not supervised:
        raise UserError("meta-training needs --task_train_files or --supervised_train_files")
    if pretrain_task_weight is not None and not (0 < pretrain_task_weight < 1 and self_supervised and supervised):
        raise UserError(
            f"--pretrain_task_weight {pretrain_task_weight}: needs files of both kinds and a share between 0 and 1"
        )
    of_kinds = ((share, np.sqrt(own) if square_root else own), (1.0 - share, np.sqrt(labelled)))
    weights = [part * weight / max(weight.sum(), 1.0) for part, weight in of_kinds]
    files = [*self_supervised, *supervised]
    if len(files) == 1:
        return files[0].tasks
    return Mixture([file.tasks for file in files], np.concatenate(weights).tolist())


class Divided:
    """Gives the first of each step's episodes to one source, and the others to another.

    A pass is over the others, self-made ones: as many whole steps as they fill, with what goes to the first beside them
    (theTB/meta_adapters: examples / (examples of a task x the processes that read them) steps).

    Args:
        first, others: the sources.
        num_first: how many of a step's episodes are from ``first``.
        per_step: episodes of a step.

    Raises:
        UserError: that leaves none for either.
    """

    def __init__(self, first: EpisodeSource, others: EpisodeSource, num_first: int, per_step: int) -> None:
        if not 0 < num_first < per_step:
            raise UserError(
                f"--num_supervised_shards: {num_first} of a step's {per_step} tasks are supervised; needs one at least "
                "of either kind"
            )
        self._first, self._others, self._num_first, self._per_step = first, others, num_first, per_step

    def __len__(self) -> int:
        return max(1, len(self._others) // (self._per_step - self._num_first)) * self._per_step

    def episode(self, number: int, seed: int) -> Episode:
        """Return the ``number``-th episode; see `EpisodeSource`."""
        step, index = divmod(number, self._per_step)
        if index < self._num_first:
            return self._first.episode(step * self._num_first + index, seed)
        return self._others.episode(step * (self._per_step - self._num_first) + index - self._num_first, seed)


def _require_sizes(found: int, support: int, query: int, name: str) -> None:
    if support < 1 or query < 1:
        raise UserError(f"--meta_batchsz {support} of --train_batch_size {support + query}: needs 1 of each at least")
    if found < support + query:
        raise UserError(f"{name}: {found} examples, but a task of --train_batch_size needs {support + query}")
