"""The pre-training data set: examples by number, masked, as numpy batches."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ds_bert.data.arrays import shard_name
from ds_bert.data.masking import Masker
from ds_bert.data.pairs import PairPlan, count_examples, plan_pairs
from ds_bert.data.sampler import random_bits
from ds_bert.data.shards import ShardedCorpus
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
        max_predictions_per_seq: int = 20,
        mlm_probability: float = 0.15,
        whole_word_mask: bool = False,
        seed: int = 42,
        evaluation: bool = False,
        ngram_mask: int = 0,
        sentence_order: bool = False,
    ) -> None:
        """Open the data folder; see `Masker` for the masks and `ds_bert.data.pairs` for ``sentence_order``.

        Raises:
            UserError: the folder is damaged, or no sentence pairs can be made of it.
        """
        self.corpus = ShardedCorpus.open(folder)
        self.tokenizer = self.corpus.tokenizer
        self.max_seq_length = max_seq_length
        self.masker = Masker(self.tokenizer, max_predictions_per_seq, mlm_probability, whole_word_mask, ngram_mask)
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
