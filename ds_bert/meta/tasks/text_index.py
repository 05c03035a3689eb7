"""Which words a tokenised corpus has, and in which sentences.

A word is a token with those that continue it, so "kings" is another word than "king"; capitals make no difference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ds_bert.data.sampler import random_bits
from ds_bert.data.shards import ShardedCorpus, map_arrays, save_arrays
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import read_json, write_json

_SHORTEST_SENTENCE = 5  # tokens
_TOKENS_AT_A_TIME = 1 << 20
_ARRAYS = ("usable", "hashes", "word_of_hash", "posting_starts", "postings", "pieces", "piece_starts")


class Sentences:
    """Reads single sentences of a corpus, numbered across its shards."""

    def __init__(self, corpus: ShardedCorpus) -> None:
        self._shards = corpus.shards
        counts = [len(shard.sentences) - 1 for shard in corpus.shards]
        self._firsts = np.concatenate([[0], np.cumsum(counts)])
        ends = [shard.documents[1:] + first for shard, first in zip(corpus.shards, self._firsts, strict=False)]
        self._document_ends = np.concatenate(ends)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def tokens(self, number: int) -> np.ndarray:
        """Return a sentence's token ids."""
        index = int(np.searchsorted(self._firsts, number, side="right")) - 1
        shard, place = self._shards[index], number - self._firsts[index]
        return shard.tokens[shard.sentences[place] : shard.sentences[place + 1]]

    def documents(self, numbers: np.ndarray) -> np.ndarray:
        """Return the documents that sentences are from, int64 of the shape of ``numbers``."""
        return np.searchsorted(self._document_ends, numbers, side="right")

    def bounds(self, document: int) -> tuple[int, int]:
        """Return a document's first sentence and the one after its last."""
        first = int(self._document_ends[document - 1]) if document else 0
        return first, int(self._document_ends[document])


class Words(NamedTuple):
    """Where words begin among some tokens, int64 (words,), and their hashes, uint64 (words,)."""

    begins: np.ndarray
    hashes: np.ndarray


class WordSplitter:
    """Finds the words among token ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        bare = [token.removeprefix("##").lstrip("▁") for token in tokenizer.tokens]
        self._joins = tokenizer.is_continuation & np.array([text.isalnum() for text in bare])
        self._bare = bare

    def split(self, tokens: np.ndarray, sentence_starts: np.ndarray) -> Words:
        """Find the words of sentences laid end to end, the first of them at ``sentence_starts[0] == 0``."""
        begins_word = ~self._joins[tokens]
        begins_word[sentence_starts[sentence_starts < len(tokens)]] = True
        begins = np.flatnonzero(begins_word)
        places = np.arange(len(tokens)) - np.repeat(begins, np.diff(np.append(begins, len(tokens))))
        bits = random_bits(tokens.astype(np.int64), places)
        return Words(begins, np.add.reduceat(bits, begins) if len(begins) else bits)

    def text(self, pieces: Sequence[int]) -> str:
        """Return a word's text in lower case."""
        return "".join(self._bare[piece] for piece in pieces).lower()


@dataclass(frozen=True)
class TextIndex:
    """The usable sentences of a corpus and the words frequent enough to make tasks of.

    Attributes:
        corpus: the sentences' tokens.
        usable: bool (sentences,): neither too short nor too long, nor the same as an earlier one.
        hashes: sorted uint64; every spelling of every word.
        word_of_hash: int64, the number of the word that is spelt so.
        posting_starts, postings: the sentences that hold word w, ascending, are
            ``postings[posting_starts[w]:posting_starts[w + 1]]``.
        piece_starts, pieces: likewise the token ids of word w.
        words: their texts.
    """

    corpus: ShardedCorpus
    usable: np.ndarray
    hashes: np.ndarray
    word_of_hash: np.ndarray
    posting_starts: np.ndarray
    postings: np.ndarray
    pieces: np.ndarray
    piece_starts: np.ndarray
    words: list[str]

    @classmethod
    def open(cls, folder: Path, corpus: ShardedCorpus) -> "TextIndex":
        """Open an index that `save` wrote; its arrays are memory-mapped."""
        return cls(corpus, words=read_json(folder / "words.json"), **map_arrays(folder, _ARRAYS))

    def save(self, folder: Path) -> None:
        """Write the index, without the corpus."""
        save_arrays(folder, {name: getattr(self, name) for name in _ARRAYS})
        write_json(folder / "words.json", self.words)

    def some_sentences(self, most: int) -> np.ndarray:
        """Return the usable sentences, or ``most`` of them, evenly spread; ascending int64."""
        usable = np.flatnonzero(self.usable)
        count = min(most, len(usable))
        return usable[np.arange(count) * len(usable) // max(count, 1)]

    def words_of(self, hashes: np.ndarray) -> np.ndarray:
        """Return the numbers of the words with these hashes, -1 where it is none of the index."""
        if not len(self.hashes):
            return np.full(len(hashes), -1)
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[places] == hashes, self.word_of_hash[places], -1)


def build_index(corpus: ShardedCorpus, min_frequency: int, max_sentence_tokens: int) -> TextIndex:
    """Index the words of a corpus that stand in at least ``min_frequency`` usable sentences.

    Raises:
        UserError: no sentence is usable.
    """
    builder = _Builder(corpus.tokenizer, max_sentence_tokens)
    for shard in corpus.shards:
        for tokens, starts in _chunks(shard.tokens, shard.sentences):
            builder.add(tokens, starts)
    return builder.finish(corpus, min_frequency)


def _chunks(tokens: np.ndarray, starts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut a shard at sentences; yield tokens and starts, counted from 0, with the end of the last sentence."""
    first = 0
    while first < len(starts) - 1:
        last = int(np.searchsorted(starts, starts[first] + _TOKENS_AT_A_TIME, side="right")) - 1
        last = max(last, first + 1)
        yield tokens[starts[first] : starts[last]], starts[first : last + 1] - starts[first]
        first = last


class _Builder:
    def __init__(self, tokenizer: Tokenizer, max_sentence_tokens: int) -> None:
        self._splitter = WordSplitter(tokenizer)
        self._longest = max_sentence_tokens
        self._num_sentences = 0
        self._usable: list[np.ndarray] = []
        self._seen: set[int] = set()
        self._word_of_hash: dict[int, int] = {}  # -1: a number, a sign, a single letter
        self._words: dict[str, int] = {}
        self._pieces: list[list[int]] = []
        self._word_parts: list[np.ndarray] = []
        self._sentence_parts: list[np.ndarray] = []

    def add(self, tokens: np.ndarray, starts: np.ndarray) -> None:
        lengths = np.diff(starts)
        usable = (lengths >= _SHORTEST_SENTENCE) & (lengths <= self._longest) & self._is_new(tokens, starts)
        words = self._splitter.split(tokens, starts[:-1])
        sentences = np.searchsorted(starts, words.begins, side="right") - 1
        distinct, firsts, inverse = np.unique(words.hashes, return_index=True, return_inverse=True)
        ends = np.append(words.begins, len(tokens))
        for value, first in zip(distinct.tolist(), firsts.tolist(), strict=True):
            if value not in self._word_of_hash:
                self._word_of_hash[value] = self._number(tokens[ends[first] : ends[first + 1]].tolist())
        numbers = np.array([self._word_of_hash[value] for value in distinct.tolist()], dtype=np.int64)[inverse]
        kept = (numbers >= 0) & usable[sentences]
        pairs = np.unique(numbers[kept] << 32 | sentences[kept])
        self._word_parts.append((pairs >> 32).astype(np.int32))
        self._sentence_parts.append((pairs & 0xFFFFFFFF) + self._num_sentences)
        self._usable.append(usable)
        self._num_sentences += len(lengths)

    def _is_new(self, tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
        places = np.arange(len(tokens)) - np.repeat(starts[:-1], np.diff(starts))
        values = np.add.reduceat(random_bits(tokens.astype(np.int64), places), starts[:-1]).tolist()
        is_new = np.empty(len(values), dtype=bool)
        for place, value in enumerate(values):
            is_new[place] = value not in self._seen
            self._seen.add(value)
        return is_new

    def _number(self, pieces: list[int]) -> int:
        text = self._splitter.text(pieces)
        if len(text) < 2 or not text.isalpha():
            return -1
        if text not in self._words:
            self._words[text] = len(self._words)
            self._pieces.append(pieces)
        return self._words[text]

    def finish(self, corpus: ShardedCorpus, min_frequency: int) -> TextIndex:
        usable = np.concatenate(self._usable)
        if not usable.any():
            raise UserError(
                f"{corpus.folder}: none of {len(usable)} sentences has {_SHORTEST_SENTENCE} to {self._longest} tokens; "
                "give more text or a larger --max_seq_length"
            )
        numbers, sentences = np.concatenate(self._word_parts), np.concatenate(self._sentence_parts)
        counts = np.bincount(numbers, minlength=len(self._words))
        kept = np.flatnonzero(counts >= min_frequency)
        renumbered = np.full(len(self._words) + 1, -1)  # the last: what is no word
        renumbered[kept] = np.arange(len(kept))
        is_kept = renumbered[numbers] >= 0
        order = np.argsort(numbers[is_kept], kind="stable")
        values = np.array(sorted(self._word_of_hash), dtype=np.uint64)
        word_of_hash = renumbered[[self._word_of_hash[value] for value in values.tolist()]]
        texts, pieces = list(self._words), [self._pieces[word] for word in kept]
        return TextIndex(
            corpus=corpus,
            usable=usable,
            hashes=values[word_of_hash >= 0],
            word_of_hash=word_of_hash[word_of_hash >= 0],
            posting_starts=_offsets(counts[kept]),
            postings=sentences[is_kept][order],
            pieces=np.array([piece for word in pieces for piece in word], dtype=np.int64),
            piece_starts=_offsets([len(word) for word in pieces]),
            words=[texts[word] for word in kept],
        )


def _offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
