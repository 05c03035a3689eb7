"""From rows of texts and labels to encoded examples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.feature_cache import cached_features, key_fingerprint
from ds_bert.data.features import Features, count_of, join_pair, make_features
from ds_bert.data.labels import as_number, shown
from ds_bert.data.tables import Table
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError

SHORTEST = 8  # tokens: room for a pair of texts
_CHUNK = 4096  # rows tokenised at a time


@dataclass(frozen=True)
class TextSplit:
    """Where the examples of one split are.

    Args:
        table: their rows.
        texts: the column of the text, or the two columns of a pair.
        label: the column of the label; None where labels are unknown.
        index: the column that prediction files repeat; None: rows are counted from 0.
        predictions: the name of its prediction file.
    """

    table: Table
    texts: tuple[str, ...]
    label: str | None = None
    index: str | None = None
    predictions: str = "predictions.tsv"


@dataclass(frozen=True)
class TextData:
    """All splits of a text classification or regression.

    Args:
        name: of the official task; None for a user's own.
        labels: names in the order of their ids; none where the label is a number (regression).
        train, evaluation, prediction: the splits.
        notes: what is to be said of the labels before they are used.
    """

    name: str | None
    labels: tuple[str, ...]
    train: TextSplit | None = None
    evaluation: Mapping[str, TextSplit] = field(default_factory=dict)
    prediction: Mapping[str, TextSplit] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoder:
    """Makes features of splits.

    Args:
        tokenizer: of the model.
        max_seq_length: tokens of an example at most, [CLS] and [SEP] included.
        labels: as `TextData` has them.
        cache_dir: where features are kept; None keeps none.
        overwrite_cache: make them anew.

    Raises:
        UserError: ``max_seq_length`` is below `SHORTEST`.
    """

    tokenizer: Tokenizer
    max_seq_length: int
    labels: tuple[str, ...]
    cache_dir: Path | None = None
    overwrite_cache: bool = False

    def __post_init__(self) -> None:
        if self.max_seq_length < SHORTEST:
            raise UserError(f"--max_seq_length {self.max_seq_length}: too short for texts; needs at least {SHORTEST}")

    def fingerprint(self, split: TextSplit, limit: int | None) -> str:
        """Return a fingerprint of all that `features` follows from."""
        return key_fingerprint(self._key(split, limit))

    def features(self, split: TextSplit, limit: int | None = None) -> Features:
        """Encode the first ``limit`` examples of a split (None: all), with the column ``labels`` where it has labels.

        ``labels`` are ids, int64 (examples,), or numbers, float32 (examples,).

        Raises:
            UserError: no examples; a line that is not as it should be; a label that is not among the known ones.
        """
        split.table.require([*split.texts, *([split.label] if split.label else [])])
        key = self._key(split, limit)
        build, origin = partial(self._build, split, limit), split.table.origin
        features = cached_features(self.cache_dir, key, build, self.overwrite_cache, origin)
        if not len(features):
            raise UserError(f"{split.table.origin}: has no examples; needs at least one")
        return features

    def _key(self, split: TextSplit, limit: int | None) -> dict[str, Any]:
        return {
            "kind": "text classification",
            "version": 1,
            "data": split.table.fingerprint,
            "texts": split.texts,
            "label": split.label,
            "labels": self.labels if split.label else None,
            "tokenizer": self.tokenizer.fingerprint,
            "max_seq_length": self.max_seq_length,
            "limit": limit,
        }

    def _build(self, split: TextSplit, limit: int | None) -> Features:
        table = split.table
        names = [*split.texts, *([split.label] if split.label else [])]
        rows = islice(table.read(names), limit)
        ids = {name: number for number, name in enumerate(self.labels)}
        parts, labels, num_cut = [], [], 0
        while chunk := list(islice(rows, _CHUNK)):
            texts = [
                [table.text(number, name, cells[place]) for number, cells in chunk]
                for place, name in enumerate(split.texts)
            ]
            encoded, num_cut_here = self._encode(texts)
            parts.append(encoded)
            num_cut += num_cut_here
            if split.label:
                labels += [_label(table, number, cells[-1], ids) for number, cells in chunk]
        columns = {"labels": np.array(labels, dtype=np.int64 if ids else np.float32)} if split.label else {}
        features = _concatenate(parts, columns, self.tokenizer.pad_id)
        notes = list(table.notes)
        if num_cut:
            cut = count_of(num_cut, len(features))
            notes.append(f"{table.origin}: {cut} longer than --max_seq_length {self.max_seq_length}: cut")
        return replace(features, notes=tuple(notes))

    def _encode(self, texts: Sequence[Sequence[str]]) -> tuple[Features, int]:
        """Encode one or two lists of texts; return how many examples are cut, too."""
        first, *rest = [_token_lists(self.tokenizer, column) for column in texts]
        second: Iterator[list[int]] | list[None] = rest[0] if rest else [None] * len(texts[0])
        special = self.tokenizer.cls_id, self.tokenizer.sep_id
        pairs = list(zip(first, second, strict=True))
        joined = [join_pair(a, b, *special, self.max_seq_length) for a, b in pairs]
        room = self.max_seq_length - 2 - len(rest)
        cut = sum(len(a) + len(b or ()) > room for a, b in pairs)
        return make_features([ids for ids, _ in joined], [size for _, size in joined], self.tokenizer.pad_id), cut


def label_name(table: Table, number: int, cell: Any) -> str:
    """Return a label as text: JSON's numbers and truth values are written as in JSON.

    Raises:
        UserError: there is none.
    """
    if isinstance(cell, str) and cell:
        return cell
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, (int, float)):
        return repr(cell)
    raise UserError(f"{table.where(number)}: no label; needs one in every {table.unit}")


def _label(table: Table, number: int, cell: Any, ids: Mapping[str, int]) -> float:
    """Return the id of a label, or, where there are no ids, the number that it says."""
    name = label_name(table, number, cell)
    value = ids.get(name) if ids else as_number(name.strip())
    if value is None:
        needed = f"one of {shown(ids)}" if ids else "a number, as this is a regression"
        raise UserError(f"{table.where(number)}: the label is {name!r}; needs {needed}")
    return value


def _token_lists(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    flat, lengths = tokenizer.encode(texts)
    ids = flat.tolist()
    ends = np.cumsum(lengths).tolist()
    return (ids[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True))


def _concatenate(parts: Sequence[Features], columns: Mapping[str, np.ndarray], pad_id: int) -> Features:
    if not parts:
        return make_features([], [], pad_id, columns)
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    return Features(
        tokens=np.concatenate([part.tokens for part in parts]),
        starts=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]),
        first_segments=np.concatenate([part.first_segments for part in parts]),
        pad_id=pad_id,
        columns=columns,
    )
