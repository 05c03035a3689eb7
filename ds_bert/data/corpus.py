"""Reading text as documents of sentences, one document in memory at a time.

Three formats:

- ``lines``: one sentence a line, a blank line between documents (BERT's own format);
- ``prose``: one paragraph a line, a blank line between documents; in WikiText, a ``= Title =`` line begins a document
  instead;
- ``jsonl``: one JSON object a line, its text under a key; line breaks separate paragraphs.

Text is UTF-8, plain or compressed by gzip. A line of the first two formats that is longer than a megabyte is read as
several, cut at white space, so that it does not fill the memory.

Reading (here, serial) is kept apart from splitting into sentences (`RawDocument.sentences`), which workers do.
"""

import codecs
import glob
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ds_bert.data.sentences import split_sentences
from ds_bert.errors import UserError
from ds_bert.files import reading as reading_bytes
from ds_bert.files import refuse_other_than_text, suffix_of

FORMATS = ("auto", "lines", "prose", "jsonl")
DOCUMENT_ENDS = ("blank_line", "file")

_JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}
_WIKITEXT_TITLE = re.compile(r"\s*= [^=](.*[^=])? =\s*")
_SAMPLE_BYTES = 1 << 18
_MOST_DESCRIBED = 20  # files
_SPELT = {"lines": "a sentence a line", "prose": "a paragraph a line", "jsonl": "a JSON object a line"}
# Text without any blank line must not become one document that fills the memory.
_LONGEST_DOCUMENT_BYTES = 1 << 24
_LONGEST_LINE_BYTES = 1 << 20
_TEXT_BYTES_A_ZERO = 32  # where there are fewer to each zero byte, a file is no text; a line with one never is


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


class BadRecord(NamedTuple):
    """A line that is no text, or no JSON object with one: its file, its number, and what is wrong with it."""

    file: str
    line: int
    reason: str


class BadRecords:
    """Collects the bad records that are passed over.

    Args:
        most: how many may be.

    Attributes:
        found: those so far.
    """

    def __init__(self, most: float = 0) -> None:
        self.most = most
        self.found: list[BadRecord] = []

    def add(self, path: Path, line: int, reason: str) -> None:
        """Pass over one more.

        Raises:
            UserError: these are too many.
        """
        if len(self.found) >= self.most:
            where = f"{path}: line {line}: {reason}"
            if not self.most:
                raise UserError(f"{where} (`ds-bert prepare --skip_bad_records N` passes over up to N such lines)")
            raise UserError(f"{where}; it is bad record {self.most + 1}, --skip_bad_records allows {self.most}")
        self.found.append(BadRecord(str(path), line, reason))


def read_documents(
    files: Iterable[Path], reading: Reading = DEFAULT_READING, bad: BadRecords | None = None
) -> Iterator[RawDocument]:
    """Yield every document of the files, not yet split into sentences.

    Args:
        files: in the order they are read in.
        reading: how.
        bad: passes over lines that are not UTF-8 or not a JSON object with the text key; default: over none.

    Raises:
        UserError: a file is empty, binary, or of another encoding, or has too many bad lines.
    """
    bad = bad or BadRecords()
    for path in files:
        is_empty = True
        for document in _read_file(path, reading, bad):
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


def _read_file(path: Path, reading: Reading, bad: BadRecords) -> Iterator[RawDocument]:
    format_ = detect_format(path) if reading.format == "auto" else reading.format
    if format_ == "jsonl":
        yield from _read_json_lines(path, reading.text_key, bad)
        return
    is_prose = format_ == "prose"
    lines: list[str] = []
    num_bytes = 0
    is_wikitext: bool | None = None  # unknown before the first line with text
    last_number = 0
    for number, text, length in _decoded_lines(path, bad):
        is_blank = not text.strip()
        is_rest, last_number = number == last_number, number  # of a long line
        if is_wikitext is None and not is_blank:
            is_wikitext = is_prose and bool(_WIKITEXT_TITLE.fullmatch(text))
        if is_wikitext:
            ends_document = bool(_WIKITEXT_TITLE.fullmatch(text))
        else:
            ends_document = is_blank and not is_rest and reading.document_end == "blank_line"
        if lines and (ends_document or num_bytes > _LONGEST_DOCUMENT_BYTES):
            yield RawDocument(lines, is_prose, num_bytes)
            lines, num_bytes = [], 0
        num_bytes += length
        if not is_blank:
            lines.append(text)
    if lines:
        yield RawDocument(lines, is_prose, num_bytes)


def _read_json_lines(path: Path, text_key: str, bad: BadRecords) -> Iterator[RawDocument]:
    for number, line, length in _decoded_lines(path, bad, whole=True):
        if not line.strip():
            continue
        try:
            text = _text_of(line, text_key)
        except _NoText as error:
            bad.add(path, number, str(error))
            continue
        if "\\u" in line:  # an escape may hold half a surrogate pair, which is no text
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        yield RawDocument([paragraph for paragraph in text.splitlines() if paragraph.strip()], True, length)


class _NoText(Exception):
    """Says what a record is instead of an object with a text."""


def _text_of(line: str, text_key: str) -> str:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _NoText(f"not JSON ({error}); JSON lines need one object a line") from None
    if not isinstance(record, dict):
        raise _NoText(f"a JSON {type(record).__name__}, but JSON lines need one object a line")
    if text_key not in record:
        keys = ", ".join(map(repr, record)) or "none"
        raise _NoText(f"no key {text_key!r} (keys: {keys}); name the key of the text by --text_key")
    if not isinstance(record[text_key], str):
        kind = type(record[text_key]).__name__
        raise _NoText(f"{text_key!r} holds a value of type {kind}, but needs a string")
    return record[text_key]


def detect_format(path: Path) -> str:
    """Tell a file's format by its ending, or by its first 256 kB: ``lines``, ``prose`` or ``jsonl``.

    Text counts as prose when it is WikiText, or when most of it stands in lines of two or more sentences.
    """
    if suffix_of(path) in _JSON_SUFFIXES:
        return "jsonl"
    in_prose = in_lines = 0
    bad = BadRecords(math.inf)  # whoever reads the file will say so
    for _, line, _ in _decoded_lines(path, bad):
        if not line.strip():
            continue
        if not in_prose and not in_lines:
            if line.lstrip().startswith("{") and _begins_with_json_object(path):
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


def describe_formats(files: Sequence[Path]) -> list[str]:
    """Say what the first files' formats are taken to be, in sentences."""
    found: dict[str, list[Path]] = {}
    for path in files[:_MOST_DESCRIBED]:
        found.setdefault(detect_format(path), []).append(path)
    sentences = []
    for name, paths in found.items():
        others = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        sentences.append(f"{paths[0]}{others}: taken for {_SPELT[name]} (--format {name})")
    if len(files) > _MOST_DESCRIBED:
        sentences.append(f"and so on: each of the {len(files):,} files by its own content")
    return sentences


def _begins_with_json_object(path: Path) -> bool:
    lines = (line for _, line, _ in _decoded_lines(path, BadRecords(math.inf), whole=True))
    try:
        return isinstance(json.loads(next(line for line in lines if line.strip())), dict)
    except (ValueError, RecursionError):
        return False


def _decoded_lines(path: Path, bad: BadRecords, whole: bool = False) -> Iterator[tuple[int, str, int]]:
    """Yield (line number from 1, text, length in bytes) of a file; a long one comes in parts, unless ``whole``."""
    with reading_bytes(path) as file:
        head = file.read(1 << 16)
        refuse_other_than_text(head.removeprefix(codecs.BOM_UTF8), path)
        if head.count(0) > len(head) // _TEXT_BYTES_A_ZERO:
            raise UserError(f"{path}: holds binary data (a zero byte), needs UTF-8 text")
        file.seek(len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0)
        for number, line in _numbered_lines(file, -1 if whole else _LONGEST_LINE_BYTES):
            if b"\0" in line:
                bad.add(path, number, "holds binary data (a zero byte), needs UTF-8 text")
                continue
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                bad.add(path, number, f"byte 0x{line[error.start]:02x} is not UTF-8 text; convert the file to UTF-8")
                continue
            yield number, text, len(line)


def _numbered_lines(file: BinaryIO, longest: int) -> Iterator[tuple[int, bytes]]:
    """Yield each line, or its parts of up to ``longest`` bytes (-1: of any length), with its number from 1."""
    number, rest = 1, b""
    while part := rest + file.readline(longest):
        if 0 < longest <= len(part) and not part.endswith(b"\n"):
            end = _end_of_part(part)
            yield number, part[:end]
            rest = part[end:]
        else:
            yield number, part
            number, rest = number + 1, b""


def _end_of_part(part: bytes) -> int:
    """Where to cut the beginning of a long line: after its last white space, or before its last character."""
    space = max(part.rfind(sign) for sign in (b" ", b"\t", b"\r"))
    if space > 0:
        return space + 1
    last = range(
        len(part) - 1, max(len(part) - 5, -1), -1
    )  # a character has up to four bytes, the first unlike the rest
    return max(1, next((place for place in last if part[place] & 0xC0 != 0x80), len(part) - 1))
