"""Files of encoded examples as others publish them: TFRecord or JSON, with N in the name, and lists of such files.

An example has ``input_ids``, ``input_mask`` and ``segment_ids``, padded to one length, and ``label_ids``. JSON files
hold a list of such objects (``.json``) or one a line (``.jsonl``). N is what follows the last ``_`` of a name. Where a
file holds self-supervised tasks, a task is so many consecutive records, support before query.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ds_bert.data.feature_cache import cached_features
from ds_bert.data.features import Features
from ds_bert.errors import UserError
from ds_bert.files import file_fingerprint, read_json, read_lines, suffix_of
from ds_bert.meta.tasks.task_set import TaskExamples
from ds_bert.meta.tasks.tfrecord import BadExample, decode_example, encode_example, frame_records, read_records

_LOG = logging.getLogger(__name__)
TFRECORD, JSON_LINES, JSON = ".tf_record", ".jsonl", ".json"
_KEYS = ("input_ids", "input_mask", "segment_ids", "label_ids")


class ListedFile(NamedTuple):
    """A file, or a folder of tasks, and how many records a list such as data.json says it holds; None: in no list."""

    path: Path
    num_records: int | None = None


class _Row(NamedTuple):
    tokens: np.ndarray
    first_segment: int
    label: int


def files_of(path: Path, data_dir: Path | None = None) -> list[ListedFile]:
    """Return what a path stands for: the files and folders that it lists, see `read_file_list`, or else itself."""
    ends_in_number = path.stem.rpartition("_")[2].isdigit()
    if path.is_dir() or path.suffix != JSON or ends_in_number:
        return [ListedFile(path)]
    return read_file_list(path, data_dir)


def read_file_list(path: Path, data_dir: Path | None = None) -> list[ListedFile]:
    """Read a list of files: a JSON object from path to number of records.

    A path is taken as it stands or, if there is no such file, by its last part in ``data_dir`` (else in the list's own
    folder).

    Raises:
        UserError: the list is not of that form, or names a file that is not there.
    """
    listed = read_json(path)
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{path}: holds no JSON object from file name to number of records; needs one, not empty")
    files = []
    for name, count in listed.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UserError(f"{path}: {name!r} has {count!r} as its number of records, needs a whole number above 0")
        beside = (data_dir or path.parent) / Path(name).name
        found = next((file for file in (Path(name), beside) if file.exists()), None)
        if found is None:
            raise UserError(f"{path}: {name!r} is no file, and neither is {beside}")
        files.append(ListedFile(found, count))
    return files


def num_classes_of(path: Path) -> int:
    """Return the N that ends a file's name, as in ``rte_train_2.tf_record``.

    Raises:
        UserError: the name has none.
    """
    match = re.search(r"_(\d+)$", path.name.split(".")[0])
    if not match or int(match[1]) < 2:
        raise UserError(f"{path}: its name needs to end in _N, the number of classes (2 at least), before the suffix")
    return int(match[1])


def read_examples(
    path: Path, num_classes: int, vocab_size: int, pad_id: int = 0, cache_dir: Path | None = None
) -> Features:
    """Read a file of encoded examples of every class.

    Args:
        path, num_classes, vocab_size, pad_id, cache_dir: as for `read_some_examples`.

    Returns:
        As `read_some_examples` does.

    Raises:
        UserError: as that does, or for a class without an example.
    """
    features = read_some_examples(path, num_classes, vocab_size, pad_id, cache_dir)
    labels = np.asarray(features.columns["labels"])
    if not len(labels):
        raise UserError(f"{path}: is empty; needs examples of {num_classes} classes")
    missing = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if len(missing):
        raise UserError(f"{path}: no example of class {missing[0]}, but needs some of each of {num_classes} classes")
    return features


def labels_in(path: Path) -> np.ndarray:
    """Return the labels of a file of encoded examples, int64 (examples,); raises `UserError` for a damaged record."""
    return np.asarray(_build(path, 0).columns["labels"])


def read_some_examples(
    path: Path, num_classes: int, vocab_size: int, pad_id: int = 0, cache_dir: Path | None = None
) -> Features:
    """Read a file of encoded examples.

    Args:
        path: TFRecord, or JSON by its suffix.
        num_classes: N.
        vocab_size: of the model.
        pad_id: of the model's vocabulary.
        cache_dir: where they are kept as memory-mapped arrays; None keeps none.

    Returns:
        The examples without padding, in the file's order, with the column ``labels``, int64 (examples,).

    Raises:
        UserError: naming file and record, for a damaged record or one that is no example, or a label or a token id
            that is not below N or the vocabulary size.
    """
    key = {"kind": "task records", "version": 1, "data": file_fingerprint(path), "pad_id": pad_id}
    features = cached_features(cache_dir, key, lambda: _build(path, pad_id), origin=str(path))
    labels = np.asarray(features.columns["labels"])
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise UserError(
            f"{path}: record {wrong[0] + 1}: label {labels[wrong[0]]}, but a file of {num_classes} classes has labels "
            f"from 0 to {num_classes - 1}"
        )
    foreign = np.flatnonzero((features.tokens < 0) | (features.tokens >= vocab_size))
    if len(foreign):
        record = int(np.searchsorted(features.starts, foreign[0], side="right"))
        raise UserError(
            f"{path}: record {record}: token id {features.tokens[foreign[0]]}, but the model's vocabulary has "
            f"{vocab_size} tokens; needs a file made with its tokenizer"
        )
    return features


def read_listed(file: ListedFile, vocab_size: int, pad_id: int = 0, cache_dir: Path | None = None) -> Features:
    """Read a file; N is in its name. Warns where its list says another number of records."""
    features = read_examples(file.path, num_classes_of(file.path), vocab_size, pad_id, cache_dir)
    if file.num_records not in (None, len(features)):
        _LOG.warning("%s: holds %d records, its list says %d", file.path, len(features), file.num_records)
    return features


def encode_tasks(tasks: Sequence[TaskExamples], suffix: str, max_seq_length: int, pad_id: int) -> bytes:
    """Return tasks as the bytes of a TFRecord or JSON lines file; such files can be put one behind the other."""
    records = [record for task in tasks for record in _padded(task, max_seq_length, pad_id)]
    if suffix == TFRECORD:
        return frame_records([encode_example(record) for record in records])
    return "".join(json.dumps({**record, "label_ids": record["label_ids"][0]}) + "\n" for record in records).encode()


def _padded(task: TaskExamples, length: int, pad_id: int) -> Iterator[dict[str, list[int]]]:
    for ids, first, label in zip(task.sequences, task.first_segments, task.labels.tolist(), strict=True):
        missing = length - len(ids)
        yield {
            "input_ids": ids.tolist() + [pad_id] * missing,
            "input_mask": [1] * len(ids) + [0] * missing,
            "segment_ids": [0] * first + [1] * (len(ids) - first) + [0] * missing,
            "label_ids": [label],
        }


def _build(path: Path, pad_id: int) -> Features:
    rows = [_row(record, where) for where, record in _records(path)]
    lengths = [len(row.tokens) for row in rows]
    return Features(
        tokens=np.concatenate([row.tokens for row in rows] or [np.zeros(0, dtype=np.int32)]),
        starts=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)]),
        first_segments=np.array([row.first_segment for row in rows], dtype=np.int32),
        pad_id=pad_id,
        columns={"labels": np.array([row.label for row in rows], dtype=np.int64)},
    )


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (where, record) of a file."""
    if suffix_of(path) == JSON:
        records = read_json(path)
        if not isinstance(records, list):
            raise UserError(f"{path}: holds a JSON {type(records).__name__}, needs a list of examples")
        yield from ((f"{path}: record {number}", record) for number, record in enumerate(records, 1))
    elif suffix_of(path) == JSON_LINES:
        for number, (_, line) in enumerate(read_lines(path), 1):
            where = f"{path}: record {number}"
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not JSON ({error}); needs one example a line") from None
    else:
        for number, data in enumerate(read_records(path), 1):
            where = f"{path}: record {number}"
            try:
                yield where, decode_example(data)
            except BadExample as error:
                raise UserError(f"{where}: no tf.train.Example ({error}); needs a file of encoded examples") from None


def _row(record: Any, where: str) -> _Row:
    """Check a record and take its padding off."""
    if not isinstance(record, Mapping):
        raise UserError(f"{where}: a JSON {type(record).__name__}, needs an object with {', '.join(_KEYS)}")
    missing = [key for key in _KEYS if key not in record]
    if missing:
        found = ", ".join(record) or "nothing"
        raise UserError(f"{where}: has {found}, but no {missing[0]}; needs integers under {', '.join(_KEYS)}")
    ids, mask, segments, label = (_integers(record[key], key, where) for key in _KEYS)
    if not len(ids) == len(mask) == len(segments) or len(label) != 1:
        raise UserError(
            f"{where}: {len(ids)} input_ids, {len(mask)} input_mask, {len(segments)} segment_ids and {len(label)} "
            "label_ids; needs as many of each and one label"
        )
    length = int(np.count_nonzero(mask))
    first = length - int(np.count_nonzero(segments[:length]))
    if not length or not mask[:length].all() or (mask > 1).any() or (mask < 0).any():
        raise UserError(f"{where}: input_mask is not ones, at least one, followed by zeros")
    if segments[:first].any() or (segments[first:length] != 1).any():
        raise UserError(f"{where}: segment_ids are not zeros followed by ones")
    return _Row(np.clip(ids[:length], -1, 2**31 - 1).astype(np.int32), first, int(label[0]))


def _integers(value: Any, key: str, where: str) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int) and not isinstance(number, bool) and abs(number) < 2**63 for number in values):
        raise UserError(f"{where}: {key} is no list of whole numbers")
    return np.array(values, dtype=np.int64)
