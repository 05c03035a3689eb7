"""Training a WordPiece vocabulary: the same text always gives the same one."""

from collections import Counter
from collections.abc import Callable, Iterable

import tokenizers
from tokenizers import trainers

from ds_bert.data.encoding import cut_text
from ds_bert.data.tokenizer_files import wordpiece
from ds_bert.data.vocabulary import CONTINUATION, FEWEST_TOKENS, SPECIAL_TOKENS, Tokenizer
from ds_bert.errors import UserError

_LARGEST_ALPHABET = 1000


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
