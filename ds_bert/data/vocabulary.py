"""Tokenizers: load one from a folder or a file, save it for transformers."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from ds_bert.data import sentencepiece
from ds_bert.errors import UserError
from ds_bert.files import read_json, read_text, write_atomically, write_json

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FEWEST_TOKENS = 100
CONTINUATION = "##"


class Tokenizer:
    """A WordPiece (BERT) or SentencePiece (ALBERT) tokenizer and the tables that masking needs.

    Attributes:
        backend: the tokenizer of the tokenizers library; use it where offsets into the text are needed.
        special_tokens: of padding, of what is unknown, [CLS], [SEP] and [MASK].
        pad_id, unk_id, cls_id, sep_id, mask_id: their ids.
    """

    def __init__(self, backend: tokenizers.Tokenizer, origin: str, sentencepiece_model: bytes | None = None) -> None:
        """Wrap ``backend``; ``origin`` names its file in messages. Raises `UserError` as `load_tokenizer` does.

        ``sentencepiece_model`` is the file that the backend was made from, to be saved beside it.
        """
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # "[MASK]" written in a text is text
        self.backend = backend
        self._is_sentencepiece = isinstance(backend.model, models.Unigram)
        self._sentencepiece_model = sentencepiece_model
        self.special_tokens = sentencepiece.SPECIAL_TOKENS if self._is_sentencepiece else SPECIAL_TOKENS
        _refuse_unusable(backend, self.special_tokens, origin)
        if self._is_sentencepiece:
            sentencepiece.read_special_pieces_as_text(backend)
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            vocabulary[token] for token in self.special_tokens
        )

    @cached_property
    def tokens(self) -> list[str]:
        """The tokens in the order of their ids; "" where no token has the id."""
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        tokens = [""] * (max(vocabulary.values()) + 1)
        for token, token_id in vocabulary.items():
            tokens[token_id] = token
        return tokens

    @property
    def size(self) -> int:
        """The number of rows that an embedding needs: one more than the largest id."""
        return len(self.tokens)

    @cached_property
    def is_continuation(self) -> np.ndarray:
        """Bool of shape (size,): the token continues a word ("##ing", or "ing" where words begin with "▁")."""
        continues = sentencepiece.continues_word if self._is_sentencepiece else _continues_word
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
        """A SHA-256 of all that decides the ids of a text: tokens in order, normalisation, SentencePiece's scores."""
        decisive = [self.tokens, json.loads(self.backend.to_str()).get("normalizer")]
        if self._is_sentencepiece:
            decisive += sentencepiece.decisive(self.backend)
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def encode(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenise sentences, without special tokens.

        Returns:
            All their ids one after the other, int64 of shape (tokens,), and how many each has, int64 of shape
            (sentences,).
        """
        encodings = [encoding.ids for encoding in self.backend.encode_batch_fast(sentences, add_special_tokens=False)]
        lengths = np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))
        flat = (token for ids in encodings for token in ids)
        return np.fromiter(flat, dtype=np.int64, count=int(lengths.sum())), lengths

    def save(self, folder: Path) -> None:
        """Write the files that transformers' AutoTokenizer reads; tokenizer_config.json, the last one, completes them.

        Beside tokenizer.json there is the vocabulary by itself: vocab.txt or, if the tokenizer was read from one or
        beside one, spiece.model.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        if not self._is_sentencepiece:
            write_atomically(folder / "vocab.txt", "".join(f"{token}\n" for token in self.tokens))
        elif self._sentencepiece_model:
            (folder / sentencepiece.MODEL_FILE).write_bytes(self._sentencepiece_model)
        kind = sentencepiece.tokenizer_config if self._is_sentencepiece else _wordpiece_config
        special_tokens = {f"{token[1:-1].lower()}_token": token for token in self.special_tokens}
        config = kind(self.backend) | {"model_max_length": 512} | special_tokens
        write_json(folder / "tokenizer_config.json", config)


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """Load the tokenizer of a folder or of a file.

    In a folder, tokenizer.json is looked for first, then spiece.model, vocab.txt, and a single file of another name
    that ends in ``.model``. A file is a tokenizer.json, a SentencePiece model (``.model``) or a WordPiece vocabulary.

    Beside a bare model or vocabulary, ``do_lower_case`` and ``keep_accents`` of tokenizer_config.json decide. Without
    it, SentencePiece drops case and accents, and WordPiece drops case unless the vocabulary has words with capitals.

    Raises:
        UserError: there is none, it lacks a special token, or it has fewer than `FEWEST_TOKENS` tokens.
    """
    path = Path(name_or_path)
    if path.is_dir():
        path = _find_in_folder(path)
    elif not path.is_file():
        raise UserError(
            f"{path}: no such folder or file; --tokenizer_name needs a tokenizer's folder, a vocab.txt or a "
            "SentencePiece model"
        )
    if path.suffix == ".json":
        model = path.parent / sentencepiece.MODEL_FILE
        return Tokenizer(_read_tokenizer_json(path), str(path), model.read_bytes() if model.is_file() else None)
    config_path = path.parent / "tokenizer_config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    if not isinstance(config, dict):
        raise UserError(f"{config_path}: holds a {type(config).__name__}, a tokenizer's configuration is a JSON object")
    if path.suffix == ".model":
        lower_case, keep_accents = bool(config.get("do_lower_case", True)), bool(config.get("keep_accents", False))
        return Tokenizer(sentencepiece.read_model(path, lower_case, keep_accents), str(path), path.read_bytes())
    return Tokenizer(_read_vocabulary(path, config.get("do_lower_case")), str(path))


def _find_in_folder(folder: Path) -> Path:
    names = ("tokenizer.json", sentencepiece.MODEL_FILE, "vocab.txt")
    files = [folder / name for name in names if (folder / name).is_file()] or list(folder.glob("*.model"))
    if not files:
        raise UserError(
            f"{folder}: no tokenizer in this folder; it needs a tokenizer.json or a vocab.txt or a spiece.model"
        )
    if files[0].name not in names and len(files) > 1:
        found = ", ".join(sorted(file.name for file in files))
        raise UserError(f"{folder}: holds several models: {found}; name one of these files")
    return files[0]


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


def _refuse_unusable(backend: tokenizers.Tokenizer, special_tokens: Sequence[str], origin: str) -> None:
    found = backend.get_vocab_size(with_added_tokens=True)
    if found < FEWEST_TOKENS:
        raise UserError(f"{origin}: a tokenizer of {found} tokens, but pre-training needs at least {FEWEST_TOKENS}")
    missing = [token for token in special_tokens if backend.token_to_id(token) is None]
    if missing:
        kind = "a BERT" if special_tokens == SPECIAL_TOKENS else "an ALBERT"
        needed = ", ".join(special_tokens)
        raise UserError(f"{origin}: lacks {', '.join(missing)}, but {kind} tokenizer needs {needed}")


def _read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    read_json(path)  # for its message
    try:
        return tokenizers.Tokenizer.from_str(read_text(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path}: no tokenizer of the tokenizers library ({error})") from None


def _read_vocabulary(path: Path, lower_case: bool | None) -> tokenizers.Tokenizer:
    lines = read_text(path).split("\n")
    tokens = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    if lower_case is None:
        words = (token for token in tokens if len(token) > 1 and not token.startswith("["))
        lower_case = not any(word != word.lower() for word in words)
    return wordpiece({token: place for place, token in enumerate(tokens)}, bool(lower_case))


def _continues_word(token: str) -> bool:
    return token.startswith(CONTINUATION) and len(token) > 2


def _wordpiece_config(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    normalizer = json.loads(backend.to_str()).get("normalizer") or {}
    return {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": bool(normalizer.get("lowercase", False)),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": bool(normalizer.get("handle_chinese_chars", True)),
    }


def wordpiece(vocabulary: dict[str, int], lower_case: bool) -> tokenizers.Tokenizer:
    """Build BERT's tokenizer, as transformers does, from a vocabulary that may lack special tokens."""
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=CONTINUATION)
    if "[CLS]" in vocabulary and "[SEP]" in vocabulary:
        specials = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=specials
        )
    backend.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocabulary])
    return backend
