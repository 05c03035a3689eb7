"""Toy tokenizers with offsets, and files in SQuAD's layout."""

import json
import random
import string
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ds_bert.data.tokenizer_files import wordpiece
from ds_bert.data.vocabulary import SPECIAL_TOKENS, Tokenizer

WORDS = ["red", "green", "blue", "small", "large", "river", "tower", "bridge", "north", "south", "where", "when", "who"]
_SENTENCE_PIECE_SPECIALS = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]


def word_piece() -> Tokenizer:
    """An uncased WordPiece tokenizer of words, letters and signs."""
    letters = string.ascii_lowercase + string.digits
    tokens = [*SPECIAL_TOKENS, *letters, *("##" + letter for letter in letters), *string.punctuation, *WORDS]
    return Tokenizer(wordpiece({token: place for place, token in enumerate(tokens)}, True), "toy WordPiece")


def sentence_piece(by_words: bool = False) -> Tokenizer:
    """An uncased Unigram tokenizer such as ALBERT's.

    Its tokens have the space before them among their characters; or, ``by_words``, a lone "▁" has the word's first one.
    """
    pieces = [(token, 0.0) for token in _SENTENCE_PIECE_SPECIALS] + [("▁", -4.0)]
    pieces += [(character, -6.0) for character in string.ascii_lowercase + string.digits + string.punctuation]
    pieces += [(f"▁{letter}", -6.0) for letter in string.ascii_lowercase] + [(f"▁{word}", -3.0) for word in WORDS]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=1))
    backend.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    steps = [pre_tokenizers.WhitespaceSplit()] if by_words else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.Metaspace()])
    backend.add_special_tokens(_SENTENCE_PIECE_SPECIALS)
    template = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
    backend.post_processor = processors.TemplateProcessing(
        single=template.partition(" $B")[0], pair=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), "toy SentencePiece")


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "WordPiece": word_piece,
    "SentencePiece": sentence_piece,
    "SentencePiece by words": partial(sentence_piece, by_words=True),
}


def random_context(chance: random.Random, words: int) -> str:
    """Words, made-up words, signs, accents and all kinds of white space."""
    parts = []
    for _ in range(words):
        made_up = "".join(chance.choices("abcdéñxyz½", k=chance.randint(1, 5)))
        parts.append(chance.choice([chance.choice(WORDS).title(), made_up, made_up + ",", f"({made_up}", "1995-96."]))
        parts.append(chance.choice([" ", " ", " ", "  ", "\t", "\u00a0", "\n"]))
    return "".join(parts)


def qa(number: int | str, question: str, answers: Sequence[tuple[str, int]] = (), **more: Any) -> dict[str, Any]:
    """A question; ``answers`` are (text, answer_start)."""
    entries = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": str(number), "question": question, "answers": entries, **more}


def write_squad(path: Path, paragraphs: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> Path:
    """Write (context, questions) pairs, each as an article of its own."""
    articles = [{"title": "", "paragraphs": [{"context": context, "qas": list(qas)}]} for context, qas in paragraphs]
    path.write_text(json.dumps({"version": "toy", "data": articles}))
    return path


def random_squad(path: Path, contexts: int = 6, questions: int = 3, words: int = 30, seed: int = 0) -> Path:
    """Write random questions, each with one answer, a run of words of its context."""
    chance = random.Random(seed)
    paragraphs = []
    for number in range(contexts):
        context = random_context(chance, chance.randint(1, words))
        qas = []
        for place in range(questions):
            found = chance.choice(context.split())
            text = " ".join(chance.choices(WORDS, k=chance.randint(1, 6))) + "?"
            qas.append(qa(f"{number}-{place}", text, [(found, context.index(found))]))
        paragraphs.append((context, qas))
    return write_squad(path, paragraphs)
