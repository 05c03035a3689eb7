"""Self-made tasks on disk: memory-mapped shards, from which single tasks are read.

A folder of tasks holds::

    tasks.json              what there is, how it was made, with sizes and checksums; written last
    tokenizer/              the tokenizer whose ids these are
    shard-00000/tokens.npy          token ids, uint16 (uint32 from 65,536 tokens on), (tokens,)
    shard-00000/sequences.npy       where each example begins among the tokens, int64 (examples + 1,)
    shard-00000/first_segments.npy  tokens of type 0 of each example, int32 (examples,)
    shard-00000/labels.npy          classes, int32 (examples,)
    shard-00000/tasks.npy           where each task begins among the examples, int64 (tasks + 1,)
    shard-00000/queries.npy         where each task's query set begins among the examples, int64 (tasks,)
    shard-00000/classes.npy         N of each task, int32 (tasks,)
    shard-00000/names.npy           what each task was made of, UTF-8 bytes (tasks,)

Nothing here is pickled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.features import Features
from ds_bert.data.sampler import permutation
from ds_bert.data.shards import (
    check_offsets,
    open_array,
    read_manifest,
    shard_name,
    token_dtype,
    tokenizer_of,
    verify_arrays,
    write_arrays,
)
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import write_json
from ds_bert.meta.tasks.episode import Episode, TaskShapes

FORMAT_VERSION = 1
MANIFEST = "tasks.json"
_ARRAYS = ("tokens", "sequences", "first_segments", "labels", "tasks", "queries", "classes", "names")


@dataclass(frozen=True)
class TaskExamples:
    """A task as it is made: the support examples, in random order, and after them the queries.

    Args:
        sequences: token ids of the examples, [CLS] and [SEP] included.
        first_segments: tokens of type 0 of each.
        labels: int64 (examples,).
        num_support: how many of them are support examples.
        num_classes: N.
        name: what it was made of.
    """

    sequences: Sequence[np.ndarray]
    first_segments: Sequence[int]
    labels: np.ndarray
    num_support: int
    num_classes: int
    name: str


class TaskSet:
    """A folder of tasks, open for reading; an `EpisodeSource`.

    Attributes:
        folder: the folder.
        about: how the tasks were made.
        is_ordered: the tasks are a curriculum: every pass takes them as they lie.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], shards: list[dict[str, np.ndarray]]) -> None:
        self.folder = folder
        self.about = manifest["about"]
        self.is_ordered = bool(manifest["is_ordered"])
        self._manifest = manifest
        self._pad_id = int(manifest["pad_id"])
        self._shards = shards
        self._firsts = np.cumsum([0, *(len(shard["classes"]) for shard in shards)])
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    @classmethod
    def open(cls, folder: str | Path) -> "TaskSet":
        """Open a folder of tasks after cheap checks: sizes, dtypes and shapes.

        Raises:
            UserError: naming the file that is missing, truncated or at odds with tasks.json.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        try:
            shards = [
                _open_shard(folder / shard_name(number), entry, manifest["vocab_size"])
                for number, entry in enumerate(manifest["shards"])
            ]
            return cls(folder, manifest, shards)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / MANIFEST}: damaged ({type(error).__name__}: {error}); make them anew") from None

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def num_examples(self) -> int:
        """Support and query examples of all tasks."""
        return sum(len(shard["labels"]) for shard in self._shards)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the tasks. Raises `UserError` when it is not the one that made them."""
        return tokenizer_of(self.folder, self._manifest["tokenizer_sha256"], MANIFEST)

    def name(self, number: int) -> str:
        """Return what task ``number`` was made of."""
        shard, place = self._find(number)
        return shard["names"][place].decode()

    def title(self, row: int) -> str:
        """Return what messages call a task."""
        return f"{self.folder}: task {row}"

    def shapes(self) -> TaskShapes:
        """Look at all tasks; see `TaskSource`."""
        shards = [_shapes(shard) for shard in self._shards]
        return TaskShapes(*(np.concatenate(column) for column in zip(*shards, strict=True)))

    def task(self, number: int) -> Episode:
        """Return task ``number``, from 0; its token ids stay memory-mapped."""
        shard, place = self._find(number)
        first, last = shard["tasks"][place : place + 2].tolist()
        query = int(shard["queries"][place])
        support, queries = (self._features(shard, *bounds) for bounds in ((first, query), (query, last)))
        return Episode(support, queries, int(shard["classes"][place]), self.title(number))

    def episode(self, number: int, seed: int) -> Episode:
        """Return the ``number``-th task of endless passes, each in an order of its own; see `EpisodeSource`."""
        epoch, place = divmod(number, len(self))
        if self.is_ordered:
            return self.task(place)
        if (seed, epoch) not in self._orders:
            self._orders = {(seed, epoch): permutation(len(self), seed, epoch)}
        return self.task(int(self._orders[seed, epoch][place]))

    def verify(self) -> None:
        """Read everything and compare checksums. Raises `UserError` naming the first file that differs."""
        verify_arrays(self.folder, self._manifest["shards"], MANIFEST)

    def _find(self, number: int) -> tuple[dict[str, np.ndarray], int]:
        if not 0 <= number < len(self):
            raise IndexError(f"task {number} of {len(self)}")
        index = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return self._shards[index], number - int(self._firsts[index])

    def _features(self, shard: dict[str, np.ndarray], first: int, last: int) -> Features:
        starts = shard["sequences"][first : last + 1]
        return Features(
            tokens=shard["tokens"][starts[0] : starts[-1]],
            starts=starts - starts[0],
            first_segments=shard["first_segments"][first:last],
            pad_id=self._pad_id,
            columns={"labels": shard["labels"][first:last].astype(np.int64)},
        )


def write_task_shard(folder: Path, tasks: Sequence[TaskExamples], vocab_size: int) -> dict[str, Any]:
    """Write one shard and return its entry in tasks.json; the shard counts only once it is listed there."""
    sequences = [sequence for task in tasks for sequence in task.sequences]
    counts = np.array([len(task.labels) for task in tasks])
    ends = np.cumsum(counts)
    arrays = {
        "tokens": np.concatenate(sequences).astype(token_dtype(vocab_size)),
        "sequences": np.append(0, np.cumsum([len(sequence) for sequence in sequences])).astype(np.int64),
        "first_segments": np.array([size for task in tasks for size in task.first_segments], dtype=np.int32),
        "labels": np.concatenate([task.labels for task in tasks]).astype(np.int32),
        "tasks": np.append(0, ends).astype(np.int64),
        "queries": (ends - counts + [task.num_support for task in tasks]).astype(np.int64),
        "classes": np.array([task.num_classes for task in tasks], dtype=np.int32),
        "names": np.array([task.name.encode() for task in tasks], dtype=np.bytes_),
    }
    files = write_arrays(folder, arrays)
    for name, array in arrays.items():
        files[f"{name}.npy"] |= {"dtype": array.dtype.str, "length": len(array)}
    return {"num_tasks": len(tasks), "num_examples": len(sequences), "files": files}


def write_task_manifest(
    folder: Path, tokenizer: Tokenizer, shards: Sequence[dict[str, Any]], is_ordered: bool, about: dict[str, Any]
) -> None:
    """Write tasks.json and the tokenizer, which makes the folder a complete one; ``about`` is for people to read."""
    tokenizer.save(folder / "tokenizer")
    manifest = {
        "format_version": FORMAT_VERSION,
        "vocab_size": tokenizer.size,
        "pad_id": tokenizer.pad_id,
        "tokenizer_sha256": tokenizer.fingerprint,
        "is_ordered": is_ordered,
        "about": about,
        "shards": list(shards),
    }
    write_json(folder / MANIFEST, manifest)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no folder of tasks: it has no {MANIFEST}; make one with `ds-bert tasks`")
    manifest = read_manifest(path, FORMAT_VERSION)
    needed = {"vocab_size": int, "pad_id": int, "tokenizer_sha256": str, "about": dict, "shards": list}
    for key, kind in needed.items():
        if not isinstance(manifest.get(key), kind):
            raise UserError(f"{path}: {key!r} is {manifest.get(key)!r}, needs a value of type {kind.__name__}")
    if not manifest["shards"]:
        raise UserError(f"{path}: lists no shards, needs one at least")
    return manifest


def _open_shard(folder: Path, entry: dict[str, Any], vocab_size: int) -> dict[str, np.ndarray]:
    arrays = {}
    for name in _ARRAYS:
        path = folder / f"{name}.npy"
        file = entry["files"][path.name]
        arrays[name] = open_array(path, file["bytes"], np.dtype(file["dtype"]), file["length"], MANIFEST)
    if arrays["tokens"].dtype != token_dtype(vocab_size):
        raise UserError(f"{folder / 'tokens.npy'}: holds {arrays['tokens'].dtype}, not ids of {vocab_size} tokens")
    check_offsets(folder / "sequences.npy", arrays["sequences"], len(arrays["tokens"]))
    check_offsets(folder / "tasks.npy", arrays["tasks"], len(arrays["labels"]))
    return arrays


def _shapes(shard: dict[str, np.ndarray]) -> TaskShapes:
    firsts = shard["tasks"][:-1]
    lengths = np.diff(shard["sequences"])
    has_pairs = np.logical_or.reduceat(shard["first_segments"] < lengths, firsts)
    longest = np.maximum.reduceat(lengths, firsts)
    return TaskShapes(longest, shard["queries"] - firsts, np.asarray(shard["classes"]), has_pairs)
