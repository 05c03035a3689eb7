"""Tokenizers: load one from a folder or a file, save it for transformers."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from tokenizers import models

from ds_bert.data.tokenizer_files import (
    CONFIG,
    ROLES,
    SENTENCEPIECE,
    SENTENCEPIECE_MODEL,
    TOKENIZER_JSON,
    VOCABULARY,
    WORDPIECE,
    continues_word,
    read_tokenizer,
    refuse_missing,
    sentencepiece_model_of,
)
from ds_bert.errors import UserError
from ds_bert.files import read_json, write_atomically, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL_TOKENS = WORDPIECE
FEWEST_TOKENS = 100
CONTINUATION = "##"
# What transformers keeps of how and where it read a tokenizer; it is no part of the tokenizer.
_NOT_SAVED = {
    *("auto_map", "fast_tokenizer_files", "is_local", "local_files_only", "max_length", "model_max_length"),
    *("name_or_path", "pad_to_multiple_of", "special_tokens_map_file", "stride", "truncation_strategy"),
}
_MODEL_INPUTS = ["input_ids", "token_type_ids", "attention_mask"]


class Tokenizer:
    """A WordPiece or SentencePiece tokenizer and the tables that masking needs.

    Attributes:
        backend: the tokenizer of the tokenizers library; use it where offsets into the text are needed.
        special_tokens: of padding, of what is unknown, [CLS], [SEP] and [MASK].
        pad_id, unk_id, cls_id, sep_id, mask_id: their ids.
    """

    def __init__(
        self, theirs: "PreTrainedTokenizerBase", origin: str, sentencepiece_model: bytes | None = None
    ) -> None:
        """Wrap transformers' tokenizer; ``origin`` names its file in messages. Raises as `load_tokenizer` does.

        ``sentencepiece_model`` is the file that it was made from, to be saved beside it.
        """
        self._theirs = theirs
        self._sentencepiece_model = sentencepiece_model
        self.backend: tokenizers.Tokenizer = theirs.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()
        self._is_sentencepiece = isinstance(self.backend.model, models.Unigram)
        _refuse_other_kinds(theirs, origin)
        self.special_tokens = _special_tokens_of(theirs, self._is_sentencepiece)
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        if len(vocabulary) < FEWEST_TOKENS:
            needed = f"pre-training needs at least {FEWEST_TOKENS}"
            raise UserError(f"{origin}: a tokenizer of {len(vocabulary)} tokens, but {needed}")
        refuse_missing([token.content for token in theirs.added_tokens_decoder.values()], self.special_tokens, origin)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = map(vocabulary.get, self.special_tokens)
        _refuse_other_sequences(self.backend, self.cls_id, self.sep_id, origin)

    @cached_property
    def tokens(self) -> list[str]:
        """The tokens in the order of their ids; "" where no token has the id.

        After a vocabulary with a repeated line, an added token may have another's id, too; the place is its own.
        """
        added = self.backend.get_added_tokens_decoder()
        vocabulary = sorted(self.backend.get_vocab(with_added_tokens=False).items())
        by_id = {token_id: token for token, token_id in vocabulary} | {
            key: token.content for key, token in added.items()
        }
        return [by_id.get(token_id, "") for token_id in range(max(by_id) + 1)]

    @property
    def size(self) -> int:
        """The number of rows that an embedding needs: one more than the largest id."""
        return len(self.tokens)

    @cached_property
    def is_continuation(self) -> np.ndarray:
        """Bool of shape (size,): the token continues a word ("##ing", or "ing" where words begin with "▁")."""
        continues = continues_word if self._is_sentencepiece else _continues_word
        return np.array([continues(token) for token in self.tokens])

    @cached_property
    def is_special(self) -> np.ndarray:
        """Bool of shape (size,): one of the five special tokens, or no token at all."""
        return np.array([token in self.special_tokens or not token for token in self.tokens])

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """The ids of all tokens that are not special, int64."""
        return np.flatnonzero(~self.is_special)

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 of all that the ids of a text follow from."""
        state = json.loads(self.backend.to_str())
        decisive = {key: state[key] for key in ("normalizer", "pre_tokenizer", "added_tokens")}
        decisive["model"] = _with_fp32_scores(state["model"])
        decisive["special_tokens"] = self.special_tokens
        decisive["special_tokens_are_text"] = self.backend.encode_special_tokens
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def encode(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenise sentences as transformers does, but without special tokens around them.

        A special token that is written in a text, such as "[SEP]", is that token.

        Returns:
            All their ids one after the other, int64 of shape (tokens,), and how many each has, int64 of shape
            (sentences,).
        """
        return _encode(self.backend, sentences)

    @cached_property
    def for_corpora(self) -> "CorpusTokenizer":
        """The same tokenizer for a corpus that may speak of special tokens."""
        state = json.loads(self.backend.to_str())
        for token in state["added_tokens"]:
            token["special"] = token["content"] in self.special_tokens  # tokens that a user added stay whole
        as_text = np.arange(self.size)
        as_text[[self.pad_id, self.cls_id, self.sep_id, self.mask_id]] = self.unk_id
        return CorpusTokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)), as_text, self.unk_id)

    def save(self, folder: Path, model_max_length: int | None = None) -> None:
        """Write the files that transformers' AutoTokenizer reads; tokenizer_config.json, the last one, completes them.

        Beside tokenizer.json there is the vocabulary by itself: vocab.txt or, if the tokenizer was read from one or
        beside one, spiece.model.

        Args:
            folder: to write to.
            model_max_length: of a sequence, where the tokenizer lies beside a model: its positions.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TOKENIZER_JSON, self._saved.tokenizer_json)
        if not self._is_sentencepiece and not any("\n" in token for token in self.tokens):
            write_atomically(folder / VOCABULARY, "".join(f"{token}\n" for token in self.tokens))
        if self._sentencepiece_model:
            (folder / SENTENCEPIECE_MODEL).write_bytes(self._sentencepiece_model)
        length = {} if model_max_length is None else {"model_max_length": model_max_length}
        write_json(folder / CONFIG, self._saved.config | length)

    @cached_property
    def _saved(self) -> "_Saved":
        """What transformers writes, if it reads the same tokenizer from it.

        Its BertTokenizer and AlbertTokenizer take no more than the vocabulary from tokenizer.json, and fill in the rest
        themselves. PreTrainedTokenizerFast takes all, whatever it is.
        """
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            self._theirs.save_pretrained(folder)
            config = {key: value for key, value in read_json(folder / CONFIG).items() if key not in _NOT_SAVED}
            config |= {f"{role}_token": token for role, token in zip(ROLES, self.special_tokens, strict=True)}
            # What their defaults leave out: the second segment of SentencePiece, and padding that moves no position.
            config |= {"model_input_names": _MODEL_INPUTS, "padding_side": "right"}
            if config["tokenizer_class"] != "TokenizersBackend":
                write_json(folder / CONFIG, config)
                if load_tokenizer(folder).fingerprint == self.fingerprint:
                    return _Saved((folder / TOKENIZER_JSON).read_text(encoding="utf-8"), config)
        return _Saved(self.backend.to_str(pretty=True), config | {"tokenizer_class": "PreTrainedTokenizerFast"})


@dataclass(frozen=True)
class CorpusTokenizer:
    """A tokenizer to which "[MASK]" and the like, written in a text, are text.

    A corpus may speak of them; a model must not learn from a [MASK] that stands for nothing. Such text is cut into
    pieces like any other or, where the tokenizer cannot cut it, unknown. It is sent to other processes quickly: it
    needs nothing of transformers.
    """

    backend: tokenizers.Tokenizer
    as_text: np.ndarray
    unk_id: int

    @property
    def size(self) -> int:
        """The number of rows that an embedding needs."""
        return len(self.as_text)

    def encode(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenise sentences; see `Tokenizer.encode`."""
        self.backend.encode_special_tokens = True  # "[MASK]" is text; lost when sent to another process
        ids, lengths = _encode(self.backend, sentences)
        return self.as_text[ids], lengths


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """Load the tokenizer of a folder or of a file.

    A folder is read as transformers' AutoTokenizer reads it, whatever files say what: the ids are the same. Where
    nothing there says which tokenizer it is (no tokenizer.json, no config.json, no ``tokenizer_class``), and where a
    file is named, a vocabulary is read by itself: as WordPiece, or as a SentencePiece model if its name ends in
    ``.model``, with the settings of the tokenizer_config.json beside it. If that does not say ``do_lower_case``, a
    SentencePiece model drops case, and WordPiece does unless the vocabulary has words with capitals.

    Raises:
        UserError: there is none, transformers cannot read it, it is neither WordPiece nor Unigram or does not make
            "[CLS] A [SEP] B [SEP]" of a pair, it lacks a special token, or it has fewer than `FEWEST_TOKENS` tokens.
    """
    path = Path(name_or_path)
    return Tokenizer(read_tokenizer(path), str(path), sentencepiece_model_of(path))


def check_fits(tokenizer: Tokenizer, model_vocab_size: int) -> None:
    """Refuse a model whose ``vocab_size`` is not made for the tokenizer.

    A model may have some more rows than there are tokens, as padding, but not both 1,000 and 10 % more.

    Raises:
        UserError: naming both numbers.
    """
    surplus = model_vocab_size - tokenizer.size
    if surplus < 0 or (surplus >= 1000 and surplus > 0.1 * tokenizer.size):
        fewer = "fewer" if surplus < 0 else "far more"
        raise UserError(
            f"the model's vocab_size is {model_vocab_size}, {fewer} than the tokenizer's {tokenizer.size} tokens; "
            f"set vocab_size to {tokenizer.size}, or up to a multiple of 128 above it"
        )


@dataclass(frozen=True)
class _Saved:
    tokenizer_json: str
    config: dict[str, Any]


def _special_tokens_of(theirs: "PreTrainedTokenizerBase", is_sentencepiece: bool) -> tuple[str, ...]:
    """What transformers names so; else the usual ones: a tokenizer.json by itself names none."""
    usual = SENTENCEPIECE if is_sentencepiece else WORDPIECE
    named = (getattr(theirs, f"{role}_token") for role in ROLES)
    return tuple(token or default for token, default in zip(named, usual, strict=True))


def _refuse_other_kinds(theirs: "PreTrainedTokenizerBase", origin: str) -> None:
    model = theirs.backend_tokenizer.model
    kind, name = type(model).__name__, type(theirs).__name__
    if not isinstance(model, models.WordPiece | models.Unigram):
        raise UserError(
            f"{origin}: its {name} is of the kind {kind}, needed is WordPiece or Unigram (a SentencePiece model)"
        )
    if isinstance(model, models.WordPiece) and model.token_to_id(model.unk_token) is None:
        raise UserError(f"{origin}: lacks {model.unk_token}, which its WordPiece vocabulary needs for unknown words")


def _refuse_other_sequences(backend: tokenizers.Tokenizer, cls_id: int, sep_id: int, origin: str) -> None:
    """Refuse a tokenizer that puts special tokens around texts in another way than this project does."""
    first, second = (backend.encode(text, add_special_tokens=False).ids for text in ("a", "b"))
    pair = backend.encode("a", "b")
    wanted = [cls_id, *first, sep_id, *second, sep_id]
    types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    if (pair.ids, pair.type_ids, backend.encode("a").ids) != (wanted, types, wanted[: len(first) + 2]):
        raise UserError(
            f"{origin}: makes {' '.join(pair.tokens)!r} of the texts 'a' and 'b', needed is '[CLS] a [SEP] b [SEP]' of "
            'two segments, as transformers\' BertTokenizer has it (name it as "tokenizer_class" in '
            "tokenizer_config.json if this is one)"
        )


def _encode(backend: tokenizers.Tokenizer, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    encodings = [encoding.ids for encoding in backend.encode_batch_fast(sentences, add_special_tokens=False)]
    lengths = np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))
    flat = (token for ids in encodings for token in ids)
    return np.fromiter(flat, dtype=np.int64, count=int(lengths.sum())), lengths


def _with_fp32_scores(model: dict[str, Any]) -> dict[str, Any]:
    """A model's state with the scores that Unigram's pieces once had: JSON may change the last digit of an fp64."""
    if model["type"] != "Unigram":
        return model
    scores = np.array([score for _, score in model["vocab"]]).astype(np.float32).tolist()
    return {**model, "vocab": [[piece, score] for (piece, _), score in zip(model["vocab"], scores, strict=True)]}


def _continues_word(token: str) -> bool:
    return token.startswith(CONTINUATION) and len(token) > 2
