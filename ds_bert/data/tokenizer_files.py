"""Files of tokenizers, read as transformers reads them, and the special tokens that a model needs.

A folder is read by transformers' AutoTokenizer, so that its ids here are those of `pipeline()` there, whatever lies in
it. That leaves what AutoTokenizer cannot read: a vocabulary without a word on the tokenizer it is for, or a file that
the user names. It is read as WordPiece or as a SentencePiece model, with the settings beside it.

SentencePiece: the clean-up of text is that of ALBERT and of transformers' AlbertTokenizer: two grave accents or
apostrophes become a double quote, accents and case are dropped unless asked for. The ids are those that the
sentencepiece package gives to the cleaned text, but for ALBERT's own rule that no piece ends in a digit and a comma:
"2010," is "2010" and ",". The rule is kept as in the tokenizer.json files published with ALBERT: such pieces have a
score at which they are never the best. (From a folder with a bare spiece.model, transformers 5 builds another
tokenizer: it knows no such rule, and starts a new word after each of ``( ) " - .``. Such a folder is read so here, too;
the file by itself is not.)
"""

import json
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import models

from ds_bert.errors import UserError
from ds_bert.files import read_json, read_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


ROLES = ("pad", "unk", "cls", "sep", "mask")
WORDPIECE = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SENTENCEPIECE = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")


def refuse_missing(vocabulary: Collection[str], needed: Sequence[str], origin: str | Path) -> None:
    """Raise `UserError` naming the special tokens that a vocabulary lacks, if it does."""
    missing = [token for token in needed if token not in vocabulary]
    if missing:
        kind = "SentencePiece" if needed[0] == SENTENCEPIECE[0] else "WordPiece"
        raise UserError(f"{origin}: lacks {', '.join(missing)}, but a {kind} tokenizer needs {', '.join(needed)}")


TOKENIZER_JSON = "tokenizer.json"
VOCABULARY = "vocab.txt"
SENTENCEPIECE_MODEL = "spiece.model"
CONFIG = "tokenizer_config.json"
_SETTINGS = (CONFIG, "special_tokens_map.json", "added_tokens.json")


def read_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Read a folder or a file; see `ds_bert.data.vocabulary.load_tokenizer`.

    Raises:
        UserError: there is no tokenizer, or none that transformers' classes can be made of.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return _read_file(path)
    raise UserError(
        f"{path}: no such folder or file; --tokenizer_name needs a tokenizer's folder, a vocab.txt or a "
        "SentencePiece model"
    )


def wordpiece(vocabulary: dict[str, int], lower_case: bool) -> "PreTrainedTokenizerBase":
    """Build BERT's tokenizer from a vocabulary that has the special tokens."""
    from transformers import BertTokenizer

    return BertTokenizer(vocab=vocabulary, do_lower_case=lower_case)


def sentencepiece_model_of(path: Path) -> bytes | None:
    """Return the SentencePiece model that a tokenizer's folder or file has, to be kept beside what is saved."""
    model = path / SENTENCEPIECE_MODEL if path.is_dir() else path
    if path.is_dir() and not model.is_file():
        model = next(iter(path.glob("*.model")), model)
    return model.read_bytes() if model.suffix == ".model" and model.is_file() else None


def _read_folder(folder: Path) -> "PreTrainedTokenizerBase":
    config = _read_config(folder)
    names = (TOKENIZER_JSON, SENTENCEPIECE_MODEL, VOCABULARY)
    known = [folder / name for name in names if (folder / name).is_file()]
    files = known or sorted(folder.glob("*.model"))
    if not files:
        raise UserError(
            f"{folder}: no tokenizer in this folder; it needs a tokenizer.json or a vocab.txt or a spiece.model"
        )
    says_which = (folder / "config.json").is_file() or "tokenizer_class" in config or files[0].name == TOKENIZER_JSON
    if says_which:
        tokenizer = _by_transformers(folder, lambda auto: auto.from_pretrained(str(folder), **_LOCAL))
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # the class is there, its vocabulary is not
            raise UserError(
                f"{folder}: transformers finds no vocabulary for its {type(tokenizer).__name__} in this folder; to "
                f"have {files[0].name} read by itself, name that file"
            )
        return tokenizer
    if not known and len(files) > 1:
        found = ", ".join(file.name for file in files)
        raise UserError(f"{folder}: holds several models: {found}; name one of these files")
    return _read_file(files[0])


def _read_file(path: Path) -> "PreTrainedTokenizerBase":
    if path.suffix == ".json":
        read_json(path)  # for its message
        with _alone(path, TOKENIZER_JSON) as folder:
            return _by_transformers(path, lambda auto: auto.from_pretrained(str(folder), **_LOCAL))
    if path.suffix == ".model":
        return _read_sentencepiece(path, _read_config(path.parent))
    return _read_vocabulary(path)


def _read_vocabulary(path: Path) -> "PreTrainedTokenizerBase":
    """Read BERT's vocabulary; where nothing says so, it is of lower case unless it has words with capitals."""
    tokens = [line.rstrip("\r") for line in read_text(path).split("\n")]
    choices = {}
    if "do_lower_case" not in _read_config(path.parent):
        words = (token for token in tokens if len(token) > 1 and not token.startswith("["))
        choices["do_lower_case"] = not any(word != word.lower() for word in words)
    with _alone(path, VOCABULARY) as folder:
        tokenizer = _by_transformers(
            path, lambda auto: auto.from_pretrained(str(folder), tokenizer_type="bert", **choices, **_LOCAL)
        )
    # transformers would give tokens that the vocabulary lacks new ids, for which no model has embeddings.
    refuse_missing(tokens, [str(getattr(tokenizer, f"{role}_token")) for role in ROLES], path)
    return tokenizer


# Nothing is fetched, and no code that a folder brings along is run.
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def _by_transformers(origin: Path, read: Callable[[Any], "PreTrainedTokenizerBase"]) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        tokenizer = read(AutoTokenizer)
    except Exception as error:  # whatever a file can make a tokenizer class raise
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{origin}: transformers can make no tokenizer of it ({cause})") from None
    if not tokenizer.is_fast:
        raise UserError(
            f"{origin}: its tokenizer is a {type(tokenizer).__name__}, which is not one of the tokenizers library; "
            "needed is one such as BertTokenizer or AlbertTokenizer"
        )
    return tokenizer


@contextmanager
def _alone(path: Path, name: str) -> Iterator[Path]:
    """Give a folder that holds this file, under the name that transformers has for it, and the settings beside it."""
    files = {name: path} | {setting: path.parent / setting for setting in _SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        for title, file in files.items():
            if file.is_file():
                Path(folder, title).write_text(read_text(file), encoding="utf-8")  # without a byte order mark
        yield Path(folder)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds a {type(config).__name__}, a tokenizer's configuration is a JSON object")
    if re.search("[\ud800-\udfff]", json.dumps(config, ensure_ascii=False)):
        raise UserError(f"{path}: holds half of a character (a lone surrogate), which no file can be written with")
    return config


_NEVER_BEST = -100.0  # a log-probability far below that of any piece


def _read_sentencepiece(path: Path, config: Mapping[str, Any]) -> "PreTrainedTokenizerBase":
    """Build ALBERT's tokenizer from a SentencePiece model.

    Args:
        path: of the model.
        config: what tokenizer_config.json says: ``do_lower_case`` (true if absent) and ``keep_accents`` (false).

    Raises:
        UserError: the file is no SentencePiece model, one of another kind than unigram, or lacks a special token.
    """
    # Through the package's own message classes: its processor does not tell the normaliser.
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2
    from transformers import AlbertTokenizer

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    try:
        proto.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise UserError(f"{path}: no SentencePiece model ({error})") from None
    if not proto.pieces or proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        found = proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type).lower() if proto.pieces else "empty"
        raise UserError(f"{path}: its SentencePiece model is {found}, but needed is a unigram model such as ALBERT's")
    pieces = [(piece.piece, _NEVER_BEST if _ends_in_number(piece.piece) else piece.score) for piece in proto.pieces]
    refuse_missing({piece for piece, _ in pieces}, SENTENCEPIECE, path)
    tokenizer = AlbertTokenizer(
        vocab=pieces,
        do_lower_case=bool(config.get("do_lower_case", True)),
        keep_accents=bool(config.get("keep_accents", False)),
        _spm_precompiled_charsmap=proto.normalizer_spec.precompiled_charsmap or None,
    )
    tokenizer.backend_tokenizer.model = models.Unigram(pieces, unk_id=proto.trainer_spec.unk_id, byte_fallback=False)
    return tokenizer


def _ends_in_number(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


def continues_word(piece: str) -> bool:
    """Say whether a piece continues the word before it: English letters that do not begin one.

    Digits, signs and other scripts stand for themselves, as when ALBERT's words were masked.
    """
    return piece.isascii() and piece.isalpha()
