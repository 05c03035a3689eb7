"""Encoded examples: what every fine-tuning task makes of its files, and how batches are cut from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

# Of a batch's arrays, the first stage reads these; all others are read by the last stage.
IGNORED = -100  # the label of a token that has none
_PAD_TO = 8  # lengths are rounded up to a multiple: fewer shapes, better aligned products


@dataclass(frozen=True)
class Features:
    """N token sequences laid end to end, and columns with one row for each example.

    An example is ``per_example`` sequences in a row (multiple choice has one for each option), so that there are
    N / ``per_example`` examples.

    Args:
        tokens: (all tokens,) int32.
        starts: (N + 1,) int64, where each sequence begins in ``tokens``, and the end of the last.
        first_segments: (N,) int32, tokens of a sequence that have type 0; those after have type 1.
        columns: what else is known of an example, such as ``labels``: arrays of N / ``per_example`` rows.
        pad_id: what shorter sequences of a batch are filled up with.
        per_example: sequences of an example.
        token_columns: what is known of every token, such as ``labels`` to tag it with: int64 arrays as long as
            ``tokens``.
        notes: sentences to be shown to people, on what was left out.
    """

    tokens: np.ndarray
    starts: np.ndarray
    first_segments: np.ndarray
    pad_id: int
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    per_example: int = 1
    token_columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of examples."""
        return (len(self.starts) - 1) // self.per_example

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example's longest sequence, int64 (examples,)."""
        return self.sequence_lengths.reshape(-1, self.per_example).max(axis=1)

    @property
    def sequence_lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64 (N,)."""
        return np.diff(self.starts)

    @property
    def has_pairs(self) -> np.ndarray:
        """Whether some sequence of an example has a second segment, bool (examples,)."""
        pairs = np.asarray(self.first_segments < np.diff(self.starts))
        return np.asarray(pairs.reshape(-1, self.per_example).any(axis=1))

    def batch(self, epochs: int | np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Collate examples, padded to the longest of them.

        Args:
            epochs: not used: these examples are the same in every epoch.
            numbers: int64 (B,).

        Returns:
            ``input_ids`` and ``token_type_ids``, int64 (B x per_example, T), ``attention_mask``, bool of that shape,
            where anything is padded, the columns' rows, and those of tokens, with `IGNORED` at padding.
        """
        numbers = np.asarray(numbers, dtype=np.int64)
        rows = (numbers[:, None] * self.per_example + np.arange(self.per_example)).reshape(-1)
        starts, lengths = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        longest = -(-int(lengths.max(initial=1)) // _PAD_TO) * _PAD_TO
        places = np.arange(longest)[None, :]
        attention_mask = places < lengths[:, None]
        input_ids = np.full(attention_mask.shape, self.pad_id, dtype=np.int64)
        flat = (starts[:, None] + places)[attention_mask]
        input_ids[attention_mask] = self.tokens[flat]
        token_types = (places >= self.first_segments[rows][:, None]) & attention_mask
        batch = {"input_ids": input_ids, "token_type_ids": token_types.astype(np.int64)}
        if not attention_mask.all():
            batch["attention_mask"] = attention_mask
        for name, column in self.token_columns.items():
            batch[name] = np.full(attention_mask.shape, IGNORED, dtype=np.int64)
            batch[name][attention_mask] = column[flat]
        return batch | {name: column[numbers] for name, column in self.columns.items()}


def count_of(part: int, whole: int, noun: str = "example") -> str:
    """Say how many of how many: "1 of 20 examples is", "3 of 20 examples are"."""
    return f"{part:,} of {whole:,} {noun}s {'is' if part == 1 else 'are'}"


def make_features(
    sequences: Sequence[Sequence[int]],
    first_segments: Sequence[int],
    pad_id: int,
    columns: Mapping[str, np.ndarray] | None = None,
    per_example: int = 1,
    token_columns: Mapping[str, np.ndarray] | None = None,
) -> Features:
    """Lay sequences of token ids end to end; see `Features`."""
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    flat = (token for sequence in sequences for token in sequence)
    tokens = np.fromiter(flat, dtype=np.int32, count=int(starts[-1]))
    first = np.asarray(first_segments, dtype=np.int32)
    return Features(tokens, starts, first, pad_id, columns or {}, per_example, token_columns or {})


def join_pair(
    first: Sequence[int], second: Sequence[int] | None, cls_id: int, sep_id: int, max_length: int
) -> tuple[list[int], int]:
    """Build ``[CLS] first [SEP]`` or ``[CLS] first [SEP] second [SEP]`` of at most ``max_length`` tokens.

    Tokens are taken off the end of whichever is longer (of ``second`` where both are as long), one after another.

    Returns:
        The ids, and how many of them belong to the first segment.
    """
    if second is None:
        ids = [cls_id, *first[: max_length - 2], sep_id]
        return ids, len(ids)
    left, right = len(first), len(second)
    surplus = left + right + 3 - max_length
    if surplus > 0:
        uneven = min(surplus, abs(left - right))
        left, right = (left - uneven, right) if left > right else (left, right - uneven)
        both = surplus - uneven
        left, right = left - both // 2, right - (both - both // 2)
    ids = [cls_id, *first[:left], sep_id, *second[:right], sep_id]
    return ids, left + 2
