"""Reading text as documents of sentences, one document in memory at a time.

Three formats:

- ``lines``: one sentence a line, a blank line between documents (BERT's own format);
- ``prose``: one paragraph a line, a blank line between documents; in WikiText, a ``= Title =`` line begins a document
  instead;
- ``jsonl``: one JSON object a line, its text under a key; line breaks separate paragraphs.

Reading (here, serial) is kept apart from splitting into sentences (`RawDocument.sentences`), which workers do.
"""

import glob
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ds_bert.data.sentences import split_sentences
from ds_bert.errors import UserError

FORMATS = ("auto", "lines", "prose", "jsonl")
DOCUMENT_ENDS = ("blank_line", "file")

_JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}
_WIKITEXT_TITLE = re.compile(r"\s*= [^=](.*[^=])? =\s*")
_SAMPLE_BYTES = 1 << 18
# Text without any blank line must not become one document that fills the memory.
_LONGEST_DOCUMENT_BYTES = 1 << 24


class RawDocument(NamedTuple):
    """A document as read: its non-blank lines, whether those are paragraphs, and the bytes they took in the file."""

    lines: list[str]
    is_prose: bool
    num_bytes: int

    def sentences(self) -> list[str]:
        """Return the document's sentences."""
        if not self.is_prose:
            return [line.strip() for line in self.lines]
        return [sentence for line in self.lines for sentence in split_sentences(line)]


class Reading(NamedTuple):
    """How to read text files; the fields are the flags of `ds-bert prepare`."""

    format: str = "auto"
    text_key: str = "text"
    document_end: str = "blank_line"


DEFAULT_READING = Reading()


def read_documents(files: Iterable[Path], reading: Reading = DEFAULT_READING) -> Iterator[RawDocument]:
    """Yield every document of the files, not yet split into sentences.

    Raises:
        UserError: a file is empty, binary, not UTF-8, or a line of it is not a JSON object with the text key.
    """
    for path in files:
        is_empty = True
        for document in _read_file(path, reading):
            is_empty = False
            yield document
        if is_empty:
            raise UserError(f"{path}: holds no text, but every input file needs some")


def find_files(inputs: Iterable[str], output_dir: Path | None = None) -> list[Path]:
    """Return the files that files, folders (searched recursively) and glob patterns name, each once, in a fixed order.

    Hidden files and anything within ``output_dir`` are passed over.

    Raises:
        UserError: an input names nothing, or a file is empty.
    """
    found: dict[Path, None] = {}
    for name in inputs:
        files = [path for path in _files_of(name) if output_dir is None or output_dir.resolve() not in path.parents]
        if not files:
            raise UserError(f"{name}: no such file, and no folder or pattern with files in it")
        found.update(dict.fromkeys(files))
    for path in found:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: is empty (0 bytes), but every input file needs some text")
    return list(found)


def _files_of(name: str) -> list[Path]:
    path = Path(name)
    if path.is_file():
        return [path.resolve()]
    if path.is_dir():
        candidates = path.rglob("*")
        visible = (file for file in candidates if not any(part[0] == "." for part in file.relative_to(path).parts))
        return sorted(file.resolve() for file in visible if file.is_file())
    return sorted(Path(match).resolve() for match in glob.glob(name, recursive=True) if Path(match).is_file())


def _read_file(path: Path, reading: Reading) -> Iterator[RawDocument]:
    format_ = detect_format(path) if reading.format == "auto" else reading.format
    if format_ == "jsonl":
        yield from _read_json_lines(path, reading.text_key)
        return
    is_prose = format_ == "prose"
    lines: list[str] = []
    num_bytes = 0
    is_wikitext: bool | None = None  # unknown before the first line with text
    for _, text, length in _decoded_lines(path):
        is_blank = not text.strip()
        if is_wikitext is None and not is_blank:
            is_wikitext = is_prose and bool(_WIKITEXT_TITLE.fullmatch(text))
        if is_wikitext:
            ends_document = bool(_WIKITEXT_TITLE.fullmatch(text))
        else:
            ends_document = is_blank and reading.document_end == "blank_line"
        if lines and (ends_document or num_bytes > _LONGEST_DOCUMENT_BYTES):
            yield RawDocument(lines, is_prose, num_bytes)
            lines, num_bytes = [], 0
        num_bytes += length
        if not is_blank:
            lines.append(text)
    if lines:
        yield RawDocument(lines, is_prose, num_bytes)


def _read_json_lines(path: Path, text_key: str) -> Iterator[RawDocument]:
    for number, line, length in _decoded_lines(path):
        if not line.strip():
            continue
        text = _text_of(line, text_key, f"{path}: line {number}")
        if "\\u" in line:  # an escape may hold half a surrogate pair, which is no text
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        yield RawDocument([paragraph for paragraph in text.splitlines() if paragraph.strip()], True, length)


def _text_of(line: str, text_key: str, where: str) -> str:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); JSON lines need one object a line") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: a JSON {type(record).__name__}, but JSON lines need one object a line")
    if text_key not in record:
        keys = ", ".join(map(repr, record)) or "none"
        raise UserError(f"{where}: no key {text_key!r} (keys: {keys}); name the key of the text by --text_key")
    if not isinstance(record[text_key], str):
        kind = type(record[text_key]).__name__
        raise UserError(f"{where}: {text_key!r} holds a value of type {kind}, but needs a string")
    return record[text_key]


def detect_format(path: Path) -> str:
    """Tell a file's format by its ending, or by its first 256 kB: ``lines``, ``prose`` or ``jsonl``.

    Text counts as prose when it is WikiText, or when most of it stands in lines of two or more sentences.
    """
    if path.suffix.lower() in _JSON_SUFFIXES:
        return "jsonl"
    in_prose = in_lines = 0
    for _, line, _ in _decoded_lines(path):
        if not line.strip():
            continue
        if not in_prose and not in_lines:
            if _is_json_object(line):
                return "jsonl"
            if _WIKITEXT_TITLE.fullmatch(line):
                return "prose"
        if len(split_sentences(line)) > 1:
            in_prose += len(line)
        else:
            in_lines += len(line)
        if in_prose + in_lines > _SAMPLE_BYTES:
            break
    return "prose" if in_prose > in_lines else "lines"


def _is_json_object(line: str) -> bool:
    if not line.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _decoded_lines(path: Path) -> Iterator[tuple[int, str, int]]:
    """Yield (line number from 1, text, length in bytes) of a UTF-8 file."""
    try:
        with open(path, "rb") as file:
            if b"\0" in file.read(1 << 16):
                raise UserError(f"{path}: holds binary data (a zero byte), needs UTF-8 text")
            file.seek(0)
            for number, line in enumerate(file, start=1):
                yield number, _decode(line, number, path), len(line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), needs to be a readable text file") from None


def _decode(line: bytes, number: int, path: Path) -> str:
    if b"\0" in line:
        raise UserError(f"{path}: line {number}: holds binary data (a zero byte), needs UTF-8 text")
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start + 1} of the line is 0x{line[error.start]:02x}"
        raise UserError(f"{path}: line {number}: not UTF-8 text ({found}); convert the file to UTF-8") from None
