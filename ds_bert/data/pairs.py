"""The sentence pairs of an epoch: which tokens stand in A and in B of every example.

An example is ``[CLS] A [SEP] B [SEP]``; A and B together fill it. Every document is cut, afresh for every epoch, into
full chunks and one shorter rest, which stands at a random place between them, so that each token is in one piece:

- a full chunk becomes one IsNext example, cut at the sentence boundary nearest to a random point;
- some chunks are broken in two halves by that cut, and each half becomes the A of a NotNext example;
- the rest becomes the A of a NotNext example.

The B of a NotNext example is a repeat: it begins at a random sentence of another document that has enough left. Which
chunks are broken is drawn, how many is not: of C chunks and R rests, (C − R) / 3, so that both labels are equally
frequent and every epoch has the same number of examples. Where rests outnumber chunks (documents shorter than about
two examples), (R − C) / 2 of them become IsNext examples, the longest of long documents first: in a document as long as
an example such a rest is widened over its neighbour, which is thus seen twice; in a shorter one the example is padded.

To predict the order of sentences instead (Lan et al. 2020, section 3.1), every chunk and every rest becomes an example,
cut at a sentence boundary in the same way, and in half of them, drawn by lot, the two parts are swapped. All rests of
long documents are widened, those of short ones padded; a document of a single token is left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ds_bert.data.sampler import below, permutation, random_bits
from ds_bert.data.shards import Shard, ShardedCorpus
from ds_bert.errors import UserError

_FEWEST_TOKENS = 1 << 24
_FEWEST_DOCUMENTS = 2


@dataclass(frozen=True)
class Block:
    """Consecutive shards, planned together.

    Attributes:
        sentences: int64 of shape (sentences + 1,), where each sentence begins among the tokens of the whole corpus.
        documents: int64 of shape (documents + 1,), where each document begins among the block's sentences.
    """

    sentences: np.ndarray
    documents: np.ndarray

    @cached_property
    def document_starts(self) -> np.ndarray:
        """Where each document begins among the tokens of the whole corpus: int64 of shape (documents + 1,)."""
        return self.sentences[self.documents]


def blocks(corpus: ShardedCorpus) -> Iterator[Block]:
    """Yield the corpus in blocks, in order; each has two documents or more if the corpus has."""
    groups: list[list[Shard]] = [[]]
    num_tokens = num_documents = 0
    for shard in corpus.shards:
        groups[-1].append(shard)
        num_tokens += len(shard.tokens)
        num_documents += len(shard.documents) - 1
        if num_tokens >= _FEWEST_TOKENS and num_documents >= _FEWEST_DOCUMENTS:
            groups.append([])
            num_tokens = num_documents = 0
    if len(groups) > 1:  # what is left over is too small for a block of its own
        groups[-2].extend(groups.pop())
    for group in groups:
        yield _load(group)


def _load(shards: Sequence[Shard]) -> Block:
    sentences, documents, num_sentences = [], [], 0
    for shard in shards:
        sentences.append(shard.sentences[:-1] + shard.first_token)
        documents.append(shard.documents[:-1] + num_sentences)
        num_sentences += len(shard.sentences) - 1
    end = shards[-1].first_token + len(shards[-1].tokens)
    return Block(np.concatenate([*sentences, [end]]), np.concatenate([*documents, [num_sentences]]))


IS_NEXT, NOT_NEXT = 0, 1  # as transformers' BertForPreTraining counts
IN_ORDER, SWAPPED = 0, 1  # as transformers counts the order of sentences

NUM_SPECIAL = 3  # [CLS], [SEP], [SEP]
_SHORTEST_SEQUENCE, _LONGEST_SEQUENCE = 8, 1 << 15
_REDRAWS = 8
_FALLBACK_DRAWS = 8
# What random bits are drawn for.
_SLOT, _CUT, _BREAK, _NEXT, _OTHER, _SWAP = range(6)


@dataclass(frozen=True)
class PairPlan:
    """The examples of one epoch, in the order of the corpus; all arrays have shape (examples,).

    Attributes:
        start_a, start_b: int64, the place of the first token of A and B in the whole corpus.
        len_a, len_b: uint16, the number of tokens.
        label: uint8, `IS_NEXT` or `NOT_NEXT`; where the order is predicted, `IN_ORDER` or `SWAPPED`.
    """

    start_a: np.ndarray
    len_a: np.ndarray
    start_b: np.ndarray
    len_b: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


def plan_pairs(
    corpus: ShardedCorpus, max_seq_length: int, seed: int, epoch: int, sentence_order: bool = False
) -> PairPlan:
    """Plan the examples of an epoch; a function of its arguments alone.

    Args:
        corpus: the documents.
        max_seq_length: tokens of an example, `NUM_SPECIAL` special ones among them.
        seed, epoch: what the draws follow from.
        sentence_order: make pairs that stand in order or are swapped, instead of IsNext and NotNext.

    Raises:
        UserError: ``max_seq_length`` is out of bounds, or no pair can be made, or there is only one document and
            ``sentence_order`` is off.
    """
    _refuse_impossible(corpus, max_seq_length, sentence_order)
    fill = max_seq_length - NUM_SPECIAL
    plan_block = _plan_order if sentence_order else _plan_block
    plans = [plan_block(block, fill, (seed, epoch, index)) for index, block in enumerate(blocks(corpus))]
    return PairPlan(*(np.concatenate(columns) for columns in zip(*plans, strict=True)))


def count_examples(corpus: ShardedCorpus, max_seq_length: int, sentence_order: bool = False) -> int:
    """Return the number of examples in every epoch, without planning one; raises as `plan_pairs`."""
    _refuse_impossible(corpus, max_seq_length, sentence_order)
    fill = max_seq_length - NUM_SPECIAL
    total = 0
    for block in blocks(corpus):
        lengths = np.diff(block.document_starts)
        if sentence_order:
            total += int((-(-lengths // fill))[lengths > 1].sum())
            continue
        chunks, rests = int((lengths // fill).sum()), int((lengths % fill > 0).sum())
        total += chunks + rests + _num_broken(chunks, rests)
    return total


def _refuse_impossible(corpus: ShardedCorpus, max_seq_length: int, sentence_order: bool) -> None:
    if not _SHORTEST_SEQUENCE <= max_seq_length <= _LONGEST_SEQUENCE:
        bounds = f"from {_SHORTEST_SEQUENCE} to {_LONGEST_SEQUENCE}"
        raise UserError(f"max_seq_length is {max_seq_length}, but sentence pairs need a number {bounds}")
    if corpus.num_documents < 2 and not sentence_order:
        raise UserError(
            f"{corpus.folder}: holds one document, but sentence pairs need at least two; prepare text whose documents "
            f"are set apart (a blank line, or one JSON object each)"
        )
    if corpus.num_tokens == corpus.num_documents and sentence_order:
        raise UserError(f"{corpus.folder}: its documents hold one token each, but a pair in order needs two of one")


def _num_broken(chunks: int, rests: int) -> int:
    return max(0, round((chunks - rests) / 3))


def _plan_block(block: Block, fill: int, key: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    chunk_starts, chunk_documents, rest_starts, rest_lengths, rest_documents = _cut_documents(block, fill, key)
    num_chunks, num_rests = len(chunk_starts), len(rest_starts)

    broken = np.zeros(num_chunks, dtype=bool)
    break_order = np.argsort(random_bits(*key, _BREAK, np.arange(num_chunks)), kind="stable")
    broken[break_order[: _num_broken(num_chunks, num_rests)]] = True

    widened = _rests_to_widen(block, rest_lengths, rest_documents, fill, max(0, (num_rests - num_chunks) // 2))
    wide_starts, wide_lengths = _widen(
        block, rest_starts[widened], rest_lengths[widened], rest_documents[widened], fill
    )

    starts = np.concatenate([chunk_starts, wide_starts])
    lengths = np.concatenate([np.full(num_chunks, fill), wide_lengths])
    cuts = _cut_points(block, starts, lengths, key)
    whole = np.concatenate([~broken, np.ones(len(wide_starts), dtype=bool)])
    next_start, next_len_a, next_len_b = starts[whole], cuts[whole], (lengths - cuts)[whole]

    broken_starts, broken_cuts = starts[~whole], cuts[~whole]
    alone = ~widened
    other_start = np.concatenate([broken_starts, broken_starts + broken_cuts, rest_starts[alone]])
    other_len_a = np.concatenate([broken_cuts, fill - broken_cuts, rest_lengths[alone]])
    other_document = np.concatenate([chunk_documents[broken], chunk_documents[broken], rest_documents[alone]])
    start_b, other_len_b = _draw_others(block, other_document, fill - other_len_a, key)

    start_a = np.concatenate([next_start, other_start])
    order = np.argsort(start_a, kind="stable")
    columns = (
        start_a,
        np.concatenate([next_len_a, other_len_a]).astype(np.uint16),
        np.concatenate([next_start + next_len_a, start_b]),
        np.concatenate([next_len_b, other_len_b]).astype(np.uint16),
        np.repeat(np.array([IS_NEXT, NOT_NEXT], dtype=np.uint8), [len(next_start), len(other_start)]),
    )
    return tuple(column[order] for column in columns)


def _plan_order(block: Block, fill: int, key: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    chunk_starts, _, rest_starts, rest_lengths, rest_documents = _cut_documents(block, fill, key)
    wide_starts, wide_lengths = _widen(block, rest_starts, rest_lengths, rest_documents, fill)
    usable = wide_lengths > 1
    starts = np.concatenate([chunk_starts, wide_starts[usable]])
    lengths = np.concatenate([np.full(len(chunk_starts), fill), wide_lengths[usable]])
    order = np.argsort(starts, kind="stable")
    starts, lengths = starts[order], lengths[order]

    cuts = _cut_points(block, starts, lengths, key)
    is_swapped = np.zeros(len(starts), dtype=bool)
    is_swapped[permutation(len(starts), *key, _SWAP)[: len(starts) // 2]] = True
    return (
        np.where(is_swapped, starts + cuts, starts),
        np.where(is_swapped, lengths - cuts, cuts).astype(np.uint16),
        np.where(is_swapped, starts, starts + cuts),
        np.where(is_swapped, cuts, lengths - cuts).astype(np.uint16),
        np.where(is_swapped, SWAPPED, IN_ORDER).astype(np.uint8),
    )


def _cut_documents(block: Block, fill: int, key: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Cut every document into full chunks and a rest.

    Returns:
        Starts and documents of the chunks; starts, lengths and documents of the rests.
    """
    bounds = block.document_starts
    starts, lengths = bounds[:-1], np.diff(bounds)
    chunks, rests = lengths // fill, lengths % fill
    # The rest stands before this chunk of its document, and shifts those that follow.
    slots = below(random_bits(*key, _SLOT, np.arange(len(lengths))), chunks + 1)
    chunk_documents = np.repeat(np.arange(len(lengths)), chunks)
    places = np.arange(len(chunk_documents)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    shifts = np.where(places >= slots[chunk_documents], rests[chunk_documents], 0)
    chunk_starts = starts[chunk_documents] + places * fill + shifts
    has_rest = np.flatnonzero(rests)
    return chunk_starts, chunk_documents, (starts + slots * fill)[has_rest], rests[has_rest], has_rest


def _cut_points(block: Block, starts: np.ndarray, lengths: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """Return how many tokens of each piece come before its cut: at least 1, at most its length − 1."""
    points = starts + 1 + below(random_bits(*key, _CUT, np.arange(len(starts))), lengths - 1)
    place = np.searchsorted(block.sentences, points, side="left")
    above, under = block.sentences[place], block.sentences[place - 1]
    above_is_inside, under_is_inside = above < starts + lengths, under > starts
    takes_above = above_is_inside & (~under_is_inside | (above - points <= points - under))
    return np.where(takes_above, above, np.where(under_is_inside, under, points)) - starts


def _rests_to_widen(block: Block, lengths: np.ndarray, documents: np.ndarray, fill: int, count: int) -> np.ndarray:
    """Choose the ``count`` rests that make IsNext examples with the least repeated or padded; bool, shape (rests,)."""
    in_long_document = np.diff(block.document_starts)[documents] >= fill
    order = np.argsort(-(in_long_document * fill + lengths), kind="stable")[:count]
    chosen = np.zeros(len(lengths), dtype=bool)
    chosen[order] = True
    return chosen & (in_long_document | (lengths >= 2))


def _widen(
    block: Block, starts: np.ndarray, lengths: np.ndarray, documents: np.ndarray, fill: int
) -> tuple[np.ndarray, np.ndarray]:
    bounds = block.document_starts
    first, end = bounds[documents], bounds[documents + 1]
    is_long = end - first >= fill
    return np.where(is_long, np.minimum(starts, end - fill), starts), np.where(is_long, fill, lengths)


def _draw_others(
    block: Block, documents: np.ndarray, needs: np.ndarray, key: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw, for each A, a sentence of another document that has ``needs`` tokens from there to its end.

    Where none is found, the best of a few sentences of other documents is taken, and B is shorter.

    Sentences are drawn from a list in the order of the tokens from there to their document's end, the most first, so
    that those with room enough for a B are its beginning, and every draw from it is one. With documents of 5 + 4 and
    3 + 6 tokens (two sentences each) that order has 9, 9, 6, 4 tokens: a B of 6 is drawn from the first three. A draw
    that hits A's own document is repeated, for all A's at once, a few times.

    Returns:
        Starts and lengths of the B's.
    """
    document_of = np.repeat(np.arange(len(block.documents) - 1), np.diff(block.documents))
    room = block.document_starts[1:][document_of] - block.sentences[:-1]
    by_room = np.argsort(-room, kind="stable")
    num_eligible = np.searchsorted(-room[by_room], -needs, side="right")

    chosen = np.zeros(len(documents), dtype=np.int64)
    unsettled = np.arange(len(documents))
    for attempt in range(_REDRAWS):
        bits = random_bits(*key, _NEXT, attempt, unsettled)
        drawn = by_room[below(bits, np.maximum(num_eligible[unsettled], 1))]
        chosen[unsettled] = drawn
        fails = (document_of[drawn] == documents[unsettled]) | (num_eligible[unsettled] == 0)
        unsettled = unsettled[fails]
    chosen[unsettled] = _draw_best_of_few(block, room, documents[unsettled], unsettled, key)
    return block.sentences[chosen], np.minimum(needs, room[chosen])


def _draw_best_of_few(
    block: Block, room: np.ndarray, documents: np.ndarray, numbers: np.ndarray, key: tuple[int, ...]
) -> np.ndarray:
    own_first, own_end = block.documents[documents], block.documents[documents + 1]
    draws = np.arange(_FALLBACK_DRAWS)[:, None]
    bits = random_bits(*key, _OTHER, draws, numbers[None, :])
    candidates = below(bits, (len(room) - (own_end - own_first))[None, :])
    candidates = candidates + np.where(candidates >= own_first, own_end - own_first, 0)
    best = np.argmax(room[candidates], axis=0)
    return candidates[best, np.arange(len(numbers))]
