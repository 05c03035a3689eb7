"""Masked-language-model masking of whole batches, by numpy alone.

Every draw is a hash of (example, position), so the masks of an example do not depend on the batch it is read in.
"""

from dataclasses import dataclass

import numpy as np

from ds_bert.data.sampler import below, random_bits, uniform
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError

IGNORED_LABEL = -100
_CHOICE, _REPLACEMENT, _RANDOM_TOKEN, _NGRAM = range(4)  # what random bits are drawn for
_MASK_SHARE, _RANDOM_SHARE = 0.8, 0.1


@dataclass(frozen=True)
class Masker:
    """How to mask (Devlin et al. 2019, section 3.1): of the chosen tokens 80 % → [MASK], 10 % → random, 10 % stay.

    Args:
        tokenizer: special tokens are neither chosen nor put in.
        max_predictions_per_seq: P, the most tokens chosen in an example.
        mlm_probability: the share of the maskable tokens that is chosen, rounded to a whole number, at least one.
        whole_word_mask: choose words with all their pieces, or not at all. Words come in random order, and one that
            would exceed the number is passed over; an example with a word is never left without a choice unless all
            its words have more than P pieces.
    """

    tokenizer: Tokenizer
    max_predictions_per_seq: int
    mlm_probability: float = 0.15
    whole_word_mask: bool = False
    ngram_mask: int = 0

    def __post_init__(self) -> None:
        if self.max_predictions_per_seq < 1:
            raise UserError(f"max_predictions_per_seq is {self.max_predictions_per_seq}, but must be at least 1")
        if not 0.0 < self.mlm_probability < 1.0:
            raise UserError(f"mlm_probability is {self.mlm_probability}, but must lie between 0 and 1")
        if self.ngram_mask < 0:
            raise UserError(f"ngram_mask is {self.ngram_mask}, but must be a number of words, or 0 for none")

    def mask(
        self, input_ids: np.ndarray, maskable: np.ndarray, segment_starts: np.ndarray, keys: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mask a batch in place.

        Args:
            input_ids: int64 (B, T), changed where tokens are masked.
            maskable: bool (B, T), the tokens that may be chosen.
            segment_starts: bool (B, T), places where a word begins whatever token stands there.
            keys: uint64 (B,), what each example's randomness follows from.

        Returns:
            Positions in ascending order, int64 (B, P), padded with 0; and the original ids there, int64 (B, P), padded
            with `IGNORED_LABEL`.
        """
        width = min(self.max_predictions_per_seq, input_ids.shape[1])
        wanted = self._number_to_choose(maskable)
        priority = self._priority(keys, input_ids.shape[1])
        if self.whole_word_mask or self.ngram_mask > 1:
            words = self._words(input_ids, segment_starts)
            if self.ngram_mask > 1:
                priority = _run_by_run(priority, _cut_runs(words, maskable, self.ngram_mask, keys))
            chosen = _choose_words(priority, maskable, words, wanted, width)
        else:
            chosen = _choose_tokens(priority, maskable, wanted, width)
        positions, is_used = _compact(chosen, self.max_predictions_per_seq)
        rows = np.arange(len(input_ids))[:, None]
        originals = input_ids[rows, positions]
        replaced = self._replace(originals, positions, keys)
        used_rows = np.broadcast_to(rows, positions.shape)[is_used]
        input_ids[used_rows, positions[is_used]] = replaced[is_used]
        return positions, np.where(is_used, originals, IGNORED_LABEL)

    def _number_to_choose(self, maskable: np.ndarray) -> np.ndarray:
        num_maskable = maskable.sum(axis=1)
        share = np.rint(self.mlm_probability * num_maskable).astype(np.int64)
        return np.minimum(np.minimum(self.max_predictions_per_seq, np.maximum(1, share)), num_maskable)

    def _priority(self, keys: np.ndarray, length: int) -> np.ndarray:
        """Random order of the positions: int64 (B, T), distinct in a row; the smallest are chosen first."""
        bits = random_bits(keys[:, None], _CHOICE, np.arange(length)[None, :])
        # Room for the position makes the keys distinct; the sign bit stays clear.
        return (bits >> np.uint64(17)).astype(np.int64) << 16 | np.arange(length)

    def _words(self, input_ids: np.ndarray, segment_starts: np.ndarray) -> np.ndarray:
        """Number the words of each row from 0: int64 (B, T)."""
        starts = ~self.tokenizer.is_continuation[input_ids] | segment_starts
        return np.maximum(np.cumsum(starts, axis=1) - 1, 0)

    def _replace(self, originals: np.ndarray, positions: np.ndarray, keys: np.ndarray) -> np.ndarray:
        fate = uniform(random_bits(keys[:, None], _REPLACEMENT, positions))
        ordinary = self.tokenizer.ordinary_ids
        drawn = ordinary[below(random_bits(keys[:, None], _RANDOM_TOKEN, positions), len(ordinary))]
        kept_or_drawn = np.where(fate < _MASK_SHARE + _RANDOM_SHARE, drawn, originals)
        return np.where(fate < _MASK_SHARE, self.tokenizer.mask_id, kept_or_drawn)


_LAST = np.iinfo(np.int64).max
_POSITION = np.int64(0xFFFF)  # the bits of a priority that hold the position


def _choose_tokens(priority: np.ndarray, maskable: np.ndarray, wanted: np.ndarray, width: int) -> np.ndarray:
    """Choose in each row the ``wanted`` maskable tokens that come first: bool (B, T)."""
    ranked = np.where(maskable, priority, _LAST)
    first = np.sort(np.partition(ranked, width - 1, axis=1)[:, :width], axis=1)
    last_chosen = first[np.arange(len(first)), np.maximum(wanted, 1) - 1]
    return (ranked <= last_chosen[:, None]) & maskable & (wanted > 0)[:, None]


def _choose_words(
    priority: np.ndarray, maskable: np.ndarray, words: np.ndarray, wanted: np.ndarray, width: int
) -> np.ndarray:
    """Choose in each row whole words, in order of priority, as long as they fit: bool (B, T)."""
    num_rows, length = priority.shape
    rows = np.arange(num_rows)[:, None]
    sizes = np.bincount((words + rows * length)[maskable], minlength=num_rows * length).reshape(num_rows, length)
    order = np.argsort(np.where(sizes > 0, priority, _LAST), axis=1)
    smallest = np.where(sizes > 0, sizes, length + 1).min(axis=1)
    left = np.where(smallest <= width, np.maximum(wanted, smallest), 0)
    ordered = sizes[rows, order]
    is_taken, candidates = np.zeros(order.shape, dtype=bool), ordered > 0
    # Takes at once all words before the first that is passed over.
    while np.any(candidates := candidates & (ordered <= left[:, None])):
        takes = candidates & (np.cumsum(ordered * candidates, axis=1) <= left[:, None])
        left = left - (ordered * takes).sum(axis=1)
        is_taken, candidates = is_taken | takes, candidates & ~takes
    taken = np.zeros(order.shape, dtype=bool)
    taken[rows, order] = is_taken
    return taken[rows, words] & maskable


def _cut_runs(words: np.ndarray, maskable: np.ndarray, longest: int, keys: np.ndarray) -> np.ndarray:
    """Cut the words of each row into runs of 1 to ``longest``, shorter before what may not be chosen.

    Args:
        words: int64 (B, T), the number of each token's word.
        maskable: bool (B, T); what is not, such as [SEP], is a run of its own.
        longest: N.
        keys: uint64 (B,).

    Returns:
        The number of each word's run, int64 (B, T): columns are words, those past the last word mean nothing.
    """
    num_rows, length = words.shape
    shares = np.cumsum(1.0 / np.arange(1, longest + 1))
    draws = uniform(random_bits(keys[:, None], _NGRAM, np.arange(length)[None, :])) * shares[-1]
    ends = np.cumsum(1 + np.searchsorted(shares[:-1], draws, side="right"), axis=1)
    begins = np.zeros((num_rows, length + 1), dtype=bool)
    begins[:, 0] = True
    begins[np.arange(num_rows)[:, None], np.minimum(ends, length)] = True
    rows, columns = np.nonzero(~maskable)
    begins[rows, words[rows, columns]] = True
    begins[rows, words[rows, columns] + 1] = True
    return np.cumsum(begins[:, :length], axis=1) - 1


def _run_by_run(priority: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Order words, int64 (B, T), by the priority of their run, and inside it as they stand."""
    return np.take_along_axis(priority, runs, axis=1) & ~_POSITION | np.arange(priority.shape[1])


def _compact(chosen: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn bool (B, T) into positions int64 (B, width), padded with 0, and bool (B, width): which of them are used."""
    rows, columns = np.nonzero(chosen)
    counts = chosen.sum(axis=1)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    positions = np.zeros((len(chosen), width), dtype=np.int64)
    positions[rows, places] = columns
    return positions, np.arange(width)[None, :] < counts[:, None]
