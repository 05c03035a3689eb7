"""The pre-training data set: examples by number, masked whole batches at a time, by numpy alone.

Every draw is a hash of (example, position), so the masks of an example do not depend on the batch it is read in.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ds_bert.data.pairs import PairPlan, count_examples, plan_pairs
from ds_bert.data.sampler import below, random_bits, uniform
from ds_bert.data.shards import ShardedCorpus, shard_name
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError

_PLANS_KEPT = 2  # a batch that ends an epoch is completed from the next
_TRAINING, _EVALUATION = range(2)


@dataclass(frozen=True)
class Batch:
    """B examples of T = max_seq_length tokens, P = max_predictions_per_seq of them to predict at most.

    Attributes:
        input_ids: int64 (B, T).
        token_type_ids: int64 (B, T), 1 in B and its [SEP].
        attention_mask: bool (B, T), False on padding; None if there is no padding.
        masked_positions: int64 (B, P), ascending, padded with 0.
        masked_labels: int64 (B, P), padded with −100.
        next_sentence_label: int64 (B,), 0 if B follows A, 1 if not (then A follows B, where the order is predicted).
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    attention_mask: np.ndarray | None
    masked_positions: np.ndarray
    masked_labels: np.ndarray
    next_sentence_label: np.ndarray


@dataclass(frozen=True)
class Masking:
    """How to mask (Devlin et al. 2019, section 3.1): of the chosen tokens 80 % → [MASK], 10 % → random, 10 % stay.

    Args:
        max_predictions_per_seq: P, the most tokens chosen in an example.
        mlm_probability: the share of the maskable tokens that is chosen, rounded to a whole number, at least one.
        whole_word_mask: choose words with all their pieces, or not at all. Words come in random order, and one that
            would exceed the number is passed over; an example with a word is never left without a choice unless all
            its words have more than P pieces.
        ngram_mask: choose runs of 1 to this many whole words; 0 or 1 for none.

    Raises:
        UserError: a number is out of its bounds.
    """

    max_predictions_per_seq: int = 20
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


class PretrainingDataset:
    """Masked sentence pairs from a data folder.

    Examples, pairs and masks follow from (seed, epoch, number) alone: not from the process, nor from the batch that an
    example is read in. Every epoch has the same number of examples. For evaluation use epoch 0 only, numbers in
    order: its pairs and masks then are the same at every evaluation, and others than in training.
    """

    def __init__(
        self,
        folder: str | Path,
        max_seq_length: int = 128,
        masking: Masking = Masking(),
        seed: int = 42,
        evaluation: bool = False,
        sentence_order: bool = False,
    ) -> None:
        """Open the data folder; see `ds_bert.data.pairs` for ``sentence_order``.

        Raises:
            UserError: the folder is damaged, or no sentence pairs can be made of it.
        """
        self.corpus = ShardedCorpus.open(folder)
        self.tokenizer = self.corpus.tokenizer
        self.max_seq_length = max_seq_length
        self.masker = Masker(self.tokenizer, masking)
        self.sentence_order = sentence_order
        self._seed = int(random_bits(seed, _EVALUATION if evaluation else _TRAINING)[0])
        self._first_tokens = np.array([shard.first_token for shard in self.corpus.shards])
        self._num_examples = count_examples(self.corpus, max_seq_length, sentence_order)
        self._plans: dict[int, PairPlan] = {}

    def __len__(self) -> int:
        """Return the number of examples in every epoch."""
        return self._num_examples

    def plan(self, epoch: int) -> PairPlan:
        """Return the sentence pairs of an epoch."""
        if epoch not in self._plans:
            for old in sorted(self._plans)[: 1 - _PLANS_KEPT]:
                del self._plans[old]
            self._plans[epoch] = plan_pairs(self.corpus, self.max_seq_length, self._seed, epoch, self.sentence_order)
        return self._plans[epoch]

    def batch(self, epochs: int | np.ndarray, numbers: np.ndarray) -> Batch:
        """Build the batch of the given examples.

        Args:
            epochs: of each example, int64 (B,), or one for all.
            numbers: int64 (B,), each in [0, len(self)).

        Raises:
            UserError: a shard holds an id that the tokenizer has not.
        """
        numbers = np.asarray(numbers, dtype=np.int64)
        epochs = np.broadcast_to(np.asarray(epochs, dtype=np.int64), numbers.shape)
        pairs = self._pairs(epochs, numbers)
        input_ids = self._fill(pairs)
        if input_ids.max(initial=0) >= self.tokenizer.size:
            self._refuse_unknown_ids(pairs)
        columns = np.arange(self.max_seq_length)[None, :]
        end_a = 1 + pairs.len_a[:, None]
        end_b = end_a + 1 + pairs.len_b[:, None]
        in_text = (columns > 0) & (columns < end_b) & (columns != end_a)
        attention_mask = columns <= end_b
        positions, labels = self.masker.mask(
            input_ids,
            maskable=in_text & ~self.tokenizer.is_special[input_ids],
            segment_starts=(columns == 1) | (columns == end_a + 1),
            keys=random_bits(self._seed, epochs, numbers),
        )
        return Batch(
            input_ids=input_ids,
            token_type_ids=((columns > end_a) & attention_mask).astype(np.int64),
            attention_mask=None if attention_mask.all() else attention_mask,
            masked_positions=positions,
            masked_labels=labels,
            next_sentence_label=pairs.label,
        )

    def _pairs(self, epochs: np.ndarray, numbers: np.ndarray) -> PairPlan:
        """Gather the examples' pairs as int64."""
        pairs = PairPlan(*(np.zeros(numbers.shape, dtype=np.int64) for _ in fields(PairPlan)))
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            plan = self.plan(int(epoch))
            for field in fields(PairPlan):
                getattr(pairs, field.name)[chosen] = getattr(plan, field.name)[numbers[chosen]]
        return pairs

    def _fill(self, pairs: PairPlan) -> np.ndarray:
        """Lay out [CLS] A [SEP] B [SEP] and padding: int64 (B, T)."""
        rows = np.arange(len(pairs))
        input_ids = np.full((len(pairs), self.max_seq_length), self.tokenizer.pad_id, dtype=np.int64)
        input_ids[:, 0] = self.tokenizer.cls_id
        input_ids[rows, 1 + pairs.len_a] = self.tokenizer.sep_id
        input_ids[rows, 2 + pairs.len_a + pairs.len_b] = self.tokenizer.sep_id
        self._copy(input_ids, np.ones_like(pairs.len_a), pairs.start_a, pairs.len_a)
        self._copy(input_ids, 2 + pairs.len_a, pairs.start_b, pairs.len_b)
        return input_ids

    def _copy(self, input_ids: np.ndarray, columns: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        """Copy tokens [start, start + length) of the corpus to each row, from its column on."""
        shards = self._shards_of(starts)
        begins = starts - self._first_tokens[shards]
        copies = zip(shards.tolist(), begins.tolist(), lengths.tolist(), columns.tolist(), strict=True)
        for row, (shard, begin, length, column) in enumerate(copies):
            input_ids[row, column : column + length] = self.corpus.shards[shard].tokens[begin : begin + length]

    def _shards_of(self, starts: np.ndarray) -> np.ndarray:
        """The numbers of the shards that tokens of the corpus lie in."""
        return np.searchsorted(self._first_tokens, starts, side="right") - 1

    def _refuse_unknown_ids(self, pairs: PairPlan) -> None:
        """Name the first shard of these pairs that holds an id outside the vocabulary."""
        for number in np.unique(self._shards_of(np.concatenate([pairs.start_a, pairs.start_b]))).tolist():
            tokens = self.corpus.shards[number].tokens
            largest = int(tokens.argmax())
            if tokens[largest] >= self.tokenizer.size:
                folder = self.corpus.folder
                raise UserError(
                    f"{folder / shard_name(number) / 'tokens.npy'}: token {largest} is {tokens[largest]}, but the "
                    f"vocabulary has ids below {self.tokenizer.size}; `ds-bert verify {folder}` names the damaged files"
                )


IGNORED_LABEL = -100
_CHOICE, _REPLACEMENT, _RANDOM_TOKEN, _NGRAM = range(4)  # what random bits are drawn for
_MASK_SHARE, _RANDOM_SHARE = 0.8, 0.1


class Masker:
    """Masks batches.

    Args:
        tokenizer: special tokens are neither chosen nor put in.
        masking: how.
    """

    def __init__(self, tokenizer: Tokenizer, masking: Masking) -> None:
        self.tokenizer, self.masking = tokenizer, masking

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
        width = min(self.masking.max_predictions_per_seq, input_ids.shape[1])
        wanted = self._number_to_choose(maskable)
        priority = self._priority(keys, input_ids.shape[1])
        if self.masking.whole_word_mask or self.masking.ngram_mask > 1:
            words = self._words(input_ids, segment_starts)
            if self.masking.ngram_mask > 1:
                priority = _run_by_run(priority, _cut_runs(words, maskable, self.masking.ngram_mask, keys))
            chosen = _choose_words(priority, maskable, words, wanted, width)
        else:
            chosen = _choose_tokens(priority, maskable, wanted, width)
        positions, is_used = _compact(chosen, self.masking.max_predictions_per_seq)
        rows = np.arange(len(input_ids))[:, None]
        originals = input_ids[rows, positions]
        replaced = self._replace(originals, positions, keys)
        used_rows = np.broadcast_to(rows, positions.shape)[is_used]
        input_ids[used_rows, positions[is_used]] = replaced[is_used]
        return positions, np.where(is_used, originals, IGNORED_LABEL)

    def _number_to_choose(self, maskable: np.ndarray) -> np.ndarray:
        num_maskable = maskable.sum(axis=1)
        share = np.rint(self.masking.mlm_probability * num_maskable).astype(np.int64)
        return np.minimum(np.minimum(self.masking.max_predictions_per_seq, np.maximum(1, share)), num_maskable)

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
