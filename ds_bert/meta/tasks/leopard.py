"""LEOPARD's few-shot tasks: ten draws of k examples for each class, and one file to judge by.

A task's folder holds ``<name>_train_<split>_<k>`` and ``<name>_eval``, all ``.json`` or all ``.tf_record``; <name> need
not be the folder's. JSON files are lists of examples with ``sentence1``, ``label`` and, in tasks of pairs,
``sentence2``; other keys are passed over. Those of TFRecord are encoded, see `ds_bert.meta.tasks.published_files`, and
need the model's own vocabulary.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.features import Features
from ds_bert.data.sampler import permutation
from ds_bert.data.tables import Row, Table
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import file_fingerprint, read_json
from ds_bert.meta.tasks.episode_sources import subset
from ds_bert.meta.tasks.published_files import JSON, TFRECORD, labels_in, read_some_examples
from ds_bert.meta.tasks.shortening import shortened
from ds_bert.tasks.glue.features import Encoder, TextSplit

FEWEST_TEST_EXAMPLES = 30
_DRAW = 0x7E57  # any constant: a part of the test examples is the same in all runs
_TRAIN = re.compile(rf"(.+)_train_(\d+)_(\d+)({re.escape(JSON)}|{re.escape(TFRECORD)})")


@dataclass(frozen=True)
class LeopardTask:
    """A task's folder.

    Args:
        folder: the folder.
        name: what its file names begin with.
        labels: all classes, sorted; their places are their ids.
        texts: the columns of the text or the pair; none where the files are encoded.
        splits: the (k, split) that there are files of, sorted.
        suffix: of the files.
    """

    folder: Path
    name: str
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    splits: tuple[tuple[int, int], ...]
    suffix: str = JSON

    @classmethod
    def open(cls, folder: str | Path) -> "LeopardTask":
        """Look at a folder's files.

        Raises:
            UserError: the folder has no training files, or of several tasks or forms, or fewer than two classes.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no such folder; needs one with <task>_train_<split>_<k>.json or .tf_record files"
            )
        matches = [match for file in sorted(folder.iterdir()) if (match := _TRAIN.fullmatch(file.name))]
        names = sorted({match[1] for match in matches})
        if len(names) != 1:
            found = f"files of {', '.join(names)}" if names else "no <task>_train_<split>_<k>.json or .tf_record"
            raise UserError(f"{folder}: holds {found}; needs the files of one task")
        suffix, *others = sorted({match[4] for match in matches})
        if others:
            raise UserError(f"{folder}: holds {suffix} and {others[0]} files; needs one form of them")
        evaluation = folder / f"{names[0]}_eval{suffix}"
        paths = [folder / match[0] for match in matches] + [evaluation] * evaluation.is_file()
        labels, texts = (_texts_in if suffix == JSON else _encoded_in)(paths)
        if len(labels) < 2:
            raise UserError(f"{folder}: its files have {len(labels)} classes in all; needs two at least")
        splits = sorted((int(match[3]), int(match[2])) for match in matches)
        return cls(folder, names[0], tuple(labels), texts, tuple(splits), suffix)

    def usable_splits(self, k: int) -> tuple[list[int], list[str]]:
        """Return the splits of ``k`` examples per class that can be used, and why others cannot.

        Raises:
            UserError: no split can be used; the message says why the first cannot.
        """
        usable, reasons = [], []
        for split in [split for found, split in self.splits if found == k]:
            try:
                self._check_support(self._train_file(split, k), k)
                usable.append(split)
            except UserError as error:
                reasons.append(str(error))
        if not usable:
            there = ", ".join(map(str, sorted({found for found, _ in self.splits})))
            raise UserError(reasons[0] if reasons else f"{self.folder}: no files with k = {k}; there are: {there}")
        return usable, reasons

    def support(self, split: int, k: int, tokenizer: Tokenizer, max_seq_length: int) -> Features:
        """Encode a support set: ``k`` examples of each class, with the column ``labels``.

        Raises:
            UserError: there is no such file, it is empty, or a class has not ``k`` examples.
        """
        path = self._train_file(split, k)
        self._check_support(path, k)
        return self._encode(path, tokenizer, max_seq_length)

    def evaluation(
        self,
        tokenizer: Tokenizer,
        max_seq_length: int,
        limit: int | None = None,
        fewest: int = FEWEST_TEST_EXAMPLES,
        cache_dir: Path | None = None,
    ) -> Features:
        """Encode the examples to judge by, or ``limit`` of them, always the same, drawn from all.

        Raises:
            UserError: there is no such file, or it has fewer than ``fewest`` examples.
        """
        path = self.folder / f"{self.name}_eval{self.suffix}"
        if not path.is_file():
            raise UserError(f"{path}: no such file; without it there is nothing to judge by")
        found = sum(self._counts(path).values())
        if found < fewest:
            raise UserError(f"{path}: {found} examples; needs at least {fewest} for an accuracy that means anything")
        features = self._encode(path, tokenizer, max_seq_length, cache_dir)
        if limit is None or limit >= found:
            return features
        return subset(features, np.sort(permutation(found, _DRAW)[:limit]))

    def _train_file(self, split: int, k: int) -> Path:
        return self.folder / f"{self.name}_train_{split}_{k}{self.suffix}"

    def _counts(self, path: Path) -> Counter[str]:
        """Count a file's examples by class."""
        if self.suffix == TFRECORD:
            return Counter(map(str, labels_in(path).tolist()))
        return Counter(row["label"] for row in _read_rows(path))

    def _check_support(self, path: Path, k: int) -> None:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        counts = self._counts(path)
        if not counts:
            raise UserError(f"{path}: is an empty list; needs {k} examples of each of {len(self.labels)} classes")
        wrong = [label for label in self.labels if counts[label] != k]
        if wrong:
            raise UserError(f"{path}: {counts[wrong[0]]} examples of class {wrong[0]!r}, its name says {k} of each")

    def _encode(self, path: Path, tokenizer: Tokenizer, max_seq_length: int, cache_dir: Path | None = None) -> Features:
        if self.suffix == TFRECORD:
            examples = read_some_examples(path, len(self.labels), tokenizer.size, tokenizer.pad_id, cache_dir)
            return shortened(examples, max_seq_length)
        columns = (*self.texts, "label")

        def rows() -> Iterator[Row]:
            return ((number, [row.get(name) for name in columns]) for number, row in enumerate(_read_rows(path), 1))

        table = Table(str(path), columns, file_fingerprint(path), rows, unit="example")
        encoder = Encoder(tokenizer, max_seq_length, self.labels, cache_dir)
        return encoder.features(TextSplit(table, self.texts, "label"))


def _texts_in(paths: Sequence[Path]) -> tuple[list[str], tuple[str, ...]]:
    """The classes of JSON files, sorted, and the columns of their texts."""
    rows = [row for path in paths for row in _read_rows(path)]
    texts = ("sentence1", "sentence2") if any("sentence2" in row for row in rows) else ("sentence1",)
    return sorted({row["label"] for row in rows}), texts


def _encoded_in(paths: Sequence[Path]) -> tuple[list[str], tuple[str, ...]]:
    """The classes of TFRecord files, which are numbers from 0 on."""
    most = max(int(labels_in(path).max(initial=-1)) for path in paths)
    return list(map(str, range(most + 1))), ()


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path}: holds a JSON {type(rows).__name__}, needs a list of examples")
    for number, row in enumerate(rows, 1):
        for key in ("sentence1", "label"):
            if not isinstance(row, dict) or not isinstance(row.get(key), str):
                raise UserError(
                    f"{path}: example {number}: no text under {key!r}; needs objects with sentence1 and label"
                )
    return rows
