"""Finding shipped configurations, reading text of any origin, and writing files that exist whole or not at all."""

import codecs
import filecmp
import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ds_bert.errors import UserError, did_you_mean


def shipped_configs() -> Path:
    """Return the folder `ds_configs`: beside the package in a checkout, under ``share/`` once installed."""
    checkout = Path(__file__).resolve().parent.parent / "ds_configs"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "ds_bert" / "ds_configs"


def find_config(kind: str, name: str | Path) -> Path:
    """Return the JSON file that ``name`` means: a path, or the name of a shipped file of that ``kind``.

    Args:
        kind: a folder of `ds_configs`: "engine", "models", "recipe_defaults" or "stage_maps".
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
    names = sorted(file.stem for file in folder.glob("*.json"))
    hint = did_you_mean(path.name.removesuffix(".json"), names)
    raise UserError(
        f"{name}: no such file, and no shipped configuration of that name in {kind} (there are: {', '.join(names)})"
        f"{'; ' + hint if hint else ''}"
    )


_GZIP = b"\x1f\x8b"
# What files begin with that are often taken for text; of those that begin alike, the longer stands first.
_NO_TEXT = {
    codecs.BOM_UTF32_LE: "UTF-32 text",
    codecs.BOM_UTF32_BE: "UTF-32 text",
    codecs.BOM_UTF16_LE: "UTF-16 text",
    codecs.BOM_UTF16_BE: "UTF-16 text",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ\0": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"PAR1": "a Parquet file",
}


def suffix_of(path: Path) -> str:
    """Return the ending of a file's name that tells its kind, in lower case: ``.csv`` of ``a.csv`` and ``A.CSV.gz``."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes; what gzip has compressed is decompressed on the way, whatever the file's name.

    Raises:
        UserError: the file is missing, cannot be opened or, while it is read, turns out to be damaged.
    """
    try:
        with open(path, "rb") as file:
            if file.peek(len(_GZIP)).startswith(_GZIP):
                with gzip.GzipFile(fileobj=file) as content:
                    yield content  # type: ignore[misc]  # it reads as any binary file does
            else:
                yield file
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be decompressed ({error}); restore the file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def refuse_other_than_text(head: bytes, path: Path) -> None:
    """Refuse a file whose beginning shows that it is no UTF-8 text, but something else that has a name.

    Raises:
        UserError: saying what it is.
    """
    kind = next((kind for mark, kind in _NO_TEXT.items() if head.startswith(mark)), None)
    zeros = head[::2].count(0), head[1::2].count(0)
    if kind is None and len(head) >= 4 and min(zeros) == 0 and max(zeros) > len(head) / 4:
        kind = "UTF-16 text"  # without a mark; every other byte of Latin letters is zero
    if kind is not None:
        what = "convert it, as by `iconv -f UTF-16 -t UTF-8`" if kind == "UTF-16 text" else "convert or unpack it"
        raise UserError(f"{path}: is {kind}, needs UTF-8 text, plain or compressed by gzip; {what}")


def read_text(path: Path) -> str:
    """Read a text file whole: UTF-8, with or without a byte order mark, plain or compressed by gzip.

    Raises:
        UserError: the file is missing, unreadable or not such text; the message names the line.
    """
    with reading(path) as file:
        content = file.read().removeprefix(codecs.BOM_UTF8)
    refuse_other_than_text(content[: 1 << 16], path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {number}: {_no_utf_8(error)}") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield a text file's lines that are not blank, each with its number from 1; the file may be large.

    Raises:
        UserError: as `read_text` does.
    """
    with reading(path) as file:
        refuse_other_than_text(file.peek(1 << 12).removeprefix(codecs.BOM_UTF8), path)  # type: ignore[attr-defined]
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: line {number}: {_no_utf_8(error)}") from None
            if text.strip():
                yield number, text


def _no_utf_8(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x} is not UTF-8 text; convert the file to UTF-8"


def read_json(path: Path) -> Any:
    """Read a JSON file, with or without a byte order mark.

    Raises:
        UserError: the file is missing, unreadable or not JSON; the message says where it stops being JSON.
    """
    text = read_text(path)
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
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    return digest.hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder if it is not there, and see that it can be written.

    Raises:
        OSError: it cannot be made, or nothing can be written into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` so that a reader, or a crash, sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def copy_atomically(source: Path, target: Path) -> None:
    """Copy a file so that a reader, or a crash, sees the old file or the new one; one that is equal stays."""
    if target.is_file() and filecmp.cmp(source, target, shallow=False):
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.copyfile(source, temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
