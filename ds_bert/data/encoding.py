"""Tokenising a stream of documents in worker processes, in order, with bounded memory; training a vocabulary."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import trainers

from ds_bert.data.corpus import (
    RawDocument,
)
from ds_bert.data.shards import token_dtype
from ds_bert.data.tokenizer_files import wordpiece
from ds_bert.data.vocabulary import CONTINUATION, FEWEST_TOKENS, SPECIAL_TOKENS, CorpusTokenizer, Tokenizer
from ds_bert.data.workers import map_in_order
from ds_bert.errors import UserError

_CHUNK_BYTES = 1 << 20
# One call of the tokenizers library; a larger one holds more of its (large) results at a time. A longer sentence is
# tokenised in pieces.
_SENTENCES_AT_A_TIME = 2000
_CHARACTERS_AT_A_TIME = 1 << 19
_LONGEST_PIECE = 1 << 16  # characters


class NumberedDocument(NamedTuple):
    """A document to tokenise and its place in the corpus."""

    number: int
    document: RawDocument


@dataclass(frozen=True)
class EncodedChunk:
    """Consecutive tokenised documents; those that hold no token have no sentences.

    Attributes:
        numbers: the documents' places in the corpus.
        tokens: ids of all of them, shape (tokens,).
        sentence_lengths: tokens of each sentence, none zero, shape (sentences,).
        document_lengths: sentences of each document, shape (documents,).
        num_unknown: unknown tokens of each document, shape (documents,).
        num_bytes: how much text this was.
    """

    numbers: list[int]
    tokens: np.ndarray
    sentence_lengths: np.ndarray
    document_lengths: np.ndarray
    num_unknown: np.ndarray
    num_bytes: int

    def documents(self) -> Iterator["EncodedDocument"]:
        """Yield the documents one by one; their arrays are views."""
        first_sentence = first_token = 0
        for number, num_sentences, unknown in zip(
            self.numbers, self.document_lengths.tolist(), self.num_unknown.tolist(), strict=True
        ):
            sentence_lengths = self.sentence_lengths[first_sentence : first_sentence + num_sentences]
            end = first_token + int(sentence_lengths.sum())
            yield EncodedDocument(number, self.tokens[first_token:end], sentence_lengths, unknown)
            first_sentence, first_token = first_sentence + num_sentences, end


class EncodedDocument(NamedTuple):
    """One tokenised document; see `EncodedChunk`."""

    number: int
    tokens: np.ndarray
    sentence_lengths: np.ndarray
    num_unknown: int


def encode_documents(
    documents: Iterable[NumberedDocument], tokenizer: CorpusTokenizer, num_workers: int
) -> Iterator[EncodedChunk]:
    """Tokenise documents; the result does not depend on ``num_workers``.

    With one worker the work is done in this process. Memory holds a few chunks of text for each worker.
    """
    if num_workers == 1:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return map_in_order(encode_chunk, _chunks(documents), num_workers, "--num_workers", _itself, tokenizer)


def _itself(tokenizer: CorpusTokenizer) -> CorpusTokenizer:
    return tokenizer


def encode_chunk(tokenizer: CorpusTokenizer, chunk: list[NumberedDocument]) -> EncodedChunk:
    """Split the documents into sentences and tokenise them; sentences without a token are dropped."""
    documents = [entry.document.sentences() for entry in chunk]
    sentences = [cut_text(sentence) for document in documents for sentence in document]
    dtype = token_dtype(tokenizer.size)
    tokens, lengths = [np.zeros(0, dtype)], [np.zeros(0, np.int64)]
    for batch in _batches(itertools.chain.from_iterable(sentences)):
        ids, counts = tokenizer.encode(batch)
        tokens.append(ids.astype(dtype))
        lengths.append(counts)
    all_tokens = np.concatenate(tokens)
    first_pieces = np.cumsum([0, *map(len, sentences)])[:-1]
    all_lengths = np.add.reduceat(np.concatenate(lengths), first_pieces) if sentences else lengths[0]
    document_of_sentence = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    document_of_token = np.repeat(document_of_sentence, all_lengths)
    return EncodedChunk(
        numbers=[entry.number for entry in chunk],
        tokens=all_tokens,
        sentence_lengths=all_lengths[all_lengths > 0],
        document_lengths=np.bincount(document_of_sentence[all_lengths > 0], minlength=len(documents)),
        num_unknown=np.bincount(document_of_token[all_tokens == tokenizer.unk_id], minlength=len(documents)),
        num_bytes=sum(entry.document.num_bytes for entry in chunk),
    )


def cut_text(text: str) -> list[str]:
    """Cut a text at white space into pieces short enough to be tokenised at once; tokens stay as they are.

    Where there is no white space in a piece's length, it is cut all the same.
    """
    pieces, start = [], 0
    while len(text) - start > _LONGEST_PIECE:
        end = max(text.rfind(space, start + 1, start + _LONGEST_PIECE) for space in " \t\n")
        end = end if end > 0 else start + _LONGEST_PIECE
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _batches(pieces: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    num_characters = 0
    for piece in pieces:
        batch.append(piece)
        num_characters += len(piece)
        if len(batch) == _SENTENCES_AT_A_TIME or num_characters >= _CHARACTERS_AT_A_TIME:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _chunks(documents: Iterable[NumberedDocument]) -> Iterator[list[NumberedDocument]]:
    chunk: list[NumberedDocument] = []
    num_bytes = 0
    for entry in documents:
        chunk.append(entry)
        num_bytes += entry.document.num_bytes
        if num_bytes >= _CHUNK_BYTES:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def train_vocabulary(documents: Callable[[], Iterable[list[str]]], size: int) -> Tokenizer:
    """Train an uncased WordPiece vocabulary of ``size`` tokens; the same text always gives the same vocabulary.

    Args:
        documents: gives a fresh iterator over the corpus; called twice.
        size: how many tokens, special ones included.

    Raises:
        UserError: the size is below `FEWEST_TOKENS`, or the corpus yields fewer tokens than that.
    """
    if size < FEWEST_TOKENS:
        raise UserError(f"--train_vocab {size}: a vocabulary needs at least {FEWEST_TOKENS} tokens")
    backend = wordpiece({token: place for place, token in enumerate(SPECIAL_TOKENS)}, lower_case=True).backend_tokenizer
    alphabet = _alphabet(backend, documents(), limit=min(_LARGEST_ALPHABET, size // 4))
    # Left to itself, the trainer numbers the continuing characters in the random order of a hash map, and breaks ties
    # by these numbers. Handed over as special tokens, characters get their numbers from here.
    continuing = [CONTINUATION + character for character in alphabet if _can_continue(backend, character)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*SPECIAL_TOKENS, *alphabet, *continuing],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUATION,
        show_progress=False,
    )
    pieces = (piece for document in documents() for piece in cut_text(" ".join(document)))
    backend.train_from_iterator(pieces, trainer)
    vocabulary = backend.get_vocab(with_added_tokens=False)
    return Tokenizer(wordpiece(vocabulary, lower_case=True), "the trained vocabulary")


_LARGEST_ALPHABET = 1000


def _alphabet(backend: tokenizers.Tokenizer, documents: Iterable[list[str]], limit: int) -> list[str]:
    counts: Counter[str] = Counter()
    for document in documents:
        for piece in cut_text(" ".join(document)):
            counts.update(backend.normalizer.normalize_str(piece))
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    return sorted([character for character in frequent if not character.isspace()][:limit])


def _can_continue(backend: tokenizers.Tokenizer, character: str) -> bool:
    """Say whether the character may stand inside a word, unlike punctuation and Chinese."""
    text = backend.normalizer.normalize_str("a" + character)
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)] == ["a" + character]
