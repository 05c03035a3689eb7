"""Finding shipped configurations and writing files that exist whole or not at all."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from ds_bert.errors import UserError


def shipped_configs() -> Path:
    """Return the folder `ds_configs`: beside the package in a checkout, under ``share/`` once installed."""
    checkout = Path(__file__).resolve().parent.parent / "ds_configs"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "ds_bert" / "ds_configs"


def find_config(kind: str, name: str | Path) -> Path:
    """Return the JSON file that ``name`` means: a path, or the name of a shipped file of that ``kind``.

    Args:
        kind: a folder of `ds_configs`: "engine", "models" or "stage_maps".
        name: a file's path, or a shipped file's name with or without ``.json``.

    Raises:
        UserError: neither exists; the message lists the shipped names.
    """
    path = Path(name)
    if path.is_file():
        return path
    folder = shipped_configs() / kind
    shipped = folder / f"{path.name.removesuffix('.json')}.json"
    if path.parent == Path() and shipped.is_file():
        return shipped
    names = ", ".join(sorted(file.stem for file in folder.glob("*.json")))
    raise UserError(f"{name}: no such file, and no shipped configuration of that name in {kind} (there are: {names})")


def read_json(path: Path) -> Any:
    """Read a JSON file, with or without a byte order mark.

    Raises:
        UserError: the file is missing, unreadable or not JSON; the message says where it stops being JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}") from None
    try:
        return json.loads(text, object_pairs_hook=_refuse_duplicates)
    except json.JSONDecodeError as error:
        hint = ": JSON wants double quotes, this is a single quote" if text[error.pos : error.pos + 1] == "'" else ""
        raise UserError(f"{path}: line {error.lineno}, column {error.colno}: not JSON ({error.msg}){hint}") from None
    except _DuplicateKey as error:
        raise UserError(f"{path}: the key {error.args[0]!r} stands there twice") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: not JSON that can be read: {error}") from None


class _DuplicateKey(ValueError):
    pass


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _DuplicateKey(key)
        result[key] = value
    return result


def file_fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    Raises:
        UserError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    return digest.hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` so that a reader, or a crash, sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
