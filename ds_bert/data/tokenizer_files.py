"""Reading a tokenizer's files into transformers' own tokenizer object.

A folder is read by transformers' AutoTokenizer, so that its ids here are those of `pipeline()` there, whatever lies in
it. That leaves what AutoTokenizer cannot read: a vocabulary without a word on the tokenizer it is for, or a file that
the user names. It is read as WordPiece or as a SentencePiece model, with the settings beside it.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds_bert.data import sentencepiece
from ds_bert.data.special_tokens import ROLES, refuse_missing
from ds_bert.errors import UserError
from ds_bert.files import read_json, read_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
        return sentencepiece.read_model(path, _read_config(path.parent))
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
