"""Rows with named columns from TSV, CSV and JSON lines, each with its line in the file."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ds_bert.data.feature_cache import key_fingerprint
from ds_bert.errors import UserError
from ds_bert.files import file_fingerprint, read_text, suffix_of

# One text may be longer than 131,072 characters, the library's limit; a file is in memory as a whole anyway.
csv.field_size_limit(1 << 30)

_SUFFIXES = {".tsv": "tsv", ".txt": "tsv", ".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}

Row = tuple[int, Sequence[Any]]
"""A row's line in the file, counted from 1, and its cells in the order of the columns; None where one is missing."""


@dataclass(frozen=True)
class Table:
    """Rows with named columns, read anew whenever they are asked for.

    Args:
        origin: the file (or the hub's data set) they come from, for messages.
        columns: their names.
        fingerprint: of the content and of how it is read.
        rows: starts reading.
        unit: what rows are counted in.
        notes: sentences to be shown to people, on what was left out; there once all rows have been read.
    """

    origin: str
    columns: tuple[str, ...]
    fingerprint: str
    rows: Callable[[], Iterator[Row]]
    unit: str = "line"
    notes: list[str] = field(default_factory=list)

    def where(self, number: int) -> str:
        """Name a row in a message."""
        return f"{self.origin}: {self.unit} {number}"

    def require(self, names: Iterable[str]) -> None:
        """Refuse a table that lacks one of these columns.

        Raises:
            UserError: naming the columns found and those needed.
        """
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise UserError(
                f"{self.where(1)}: no column {', '.join(map(repr, missing))} among those found: "
                f"{', '.join(map(repr, self.columns))}"
            )

    def read(self, names: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Read these columns: each row's number and cells.

        Raises:
            UserError: a column is missing, or a line is not as it should be.
        """
        self.require(names)
        places = [self.columns.index(name) for name in names]
        for number, cells in self.rows():
            yield number, tuple(cells[place] for place in places)

    def without(self, name: str, cell: str) -> "Table":
        """Leave out the rows that have this cell in this column.

        Raises:
            UserError: the column is missing.
        """
        self.require([name])
        place = self.columns.index(name)
        fingerprint = key_fingerprint({"table": self.fingerprint, "without": [name, cell]})
        return replace(
            self, fingerprint=fingerprint, rows=lambda: (row for row in self.rows() if row[1][place] != cell)
        )

    def text(self, number: int, name: str, cell: Any) -> str:
        """Return a cell that has to be text.

        Raises:
            UserError: it is missing, or not text.
        """
        if not isinstance(cell, str):
            found = "nothing" if cell is None else json.dumps(cell)
            raise UserError(f"{self.where(number)}: {found} in the column {name!r}, which needs text")
        return cell


def open_table(path: Path, columns: Sequence[str] | None = None, incomplete: float = 0.0) -> Table:
    """Open a file of rows: .tsv and .txt (nothing is quoted, as in GLUE), .csv (quoted as in RFC 4180) or JSON lines.

    Args:
        path: UTF-8 text, with or without a byte order mark, plain or compressed by gzip (``.csv.gz``). Blank lines are
            passed over, unless there is one column only: there they are empty cells.
        columns: names of the columns of a file that has no header; None: the first line (the first object) names them.
        incomplete: share of a TSV's lines that may have too few or too many fields; they are left out, with a note.

    Raises:
        UserError: the file is missing, is not text, is empty, has a column twice or is of another kind. `Table.read`
            raises it for a line with a wrong number of fields, or that is not CSV or JSON.
    """
    kind = _SUFFIXES.get(suffix_of(path))
    if kind is None:
        raise UserError(
            f"{path}: the name ends in {path.suffix!r}; needs one of {', '.join(_SUFFIXES)}, or one with .gz behind it"
        )
    fingerprint = file_fingerprint(path)
    notes: list[str] = []
    if kind == "json":
        names = tuple(next((record for _, record in _json_records(path)), {}))
        rows = partial(_json_rows, path, names)
    else:
        records = _tsv_records if kind == "tsv" else _csv_records
        header = next((cells for _, cells in records(path) if not _is_blank(cells)), [])
        names = tuple(header if columns is None else columns)
        rows = partial(_delimited_rows, path, names, records, columns is None, incomplete, notes)
    if not names:
        raise UserError(f"{path}: is empty; needs rows with named columns")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: line 1: the column {twice[0]!r} stands there twice; needs a name for each")
    layout = {"content": fingerprint, "kind": kind, "columns": names, "header": columns is None, "share": incomplete}
    return Table(str(path), names, key_fingerprint(layout), rows, notes=notes)


def _json_rows(path: Path, names: Sequence[str]) -> Iterator[Row]:
    return ((number, [_whole(record.get(name)) for name in names]) for number, record in _json_records(path))


def _whole(cell: Any) -> Any:
    if isinstance(cell, list):
        return [_whole(value) for value in cell]
    return whole_text(cell) if isinstance(cell, str) else cell


def whole_text(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON's escapes may hold and which are no text."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _delimited_rows(
    path: Path,
    names: Sequence[str],
    records: Callable[[Path], Iterator[Row]],
    has_header: bool,
    incomplete: float,
    notes: list[str],
) -> Iterator[Row]:
    """Yield the rows below the header that have a cell for each name; then note how many had not."""
    left_out: list[int] = []
    number = 0
    header_is_next = has_header
    for number, cells in records(path):
        if _is_blank(cells) and (header_is_next or len(names) > 1):
            continue
        if header_is_next:
            header_is_next = False
        elif len(cells) == len(names):
            yield number, cells
        elif not incomplete:
            raise _wrong_fields(path, number, names, len(cells))
        else:
            left_out.append(number)
    if len(left_out) > incomplete * number:
        raise UserError(
            f"{path}: line {left_out[0]}: not {len(names)} fields ({', '.join(names)}), and {len(left_out)} of "
            f"{number} lines are like it; needs at most {int(incomplete * number)}"
        )
    notes[:] = (
        [f"{path}: left out {len(left_out)} incomplete lines, the first is line {left_out[0]}"] if left_out else []
    )


def _is_blank(cells: Sequence[str]) -> bool:
    return not cells or (len(cells) == 1 and not cells[0].strip())


def _wrong_fields(path: Path, number: int, names: Sequence[str], found: int) -> UserError:
    return UserError(f"{path}: line {number}: {found} fields, but {len(names)} are needed ({', '.join(names)})")


def text_lines(path: Path) -> list[str]:
    """Read the lines of a file of UTF-8, with or without a byte order mark, the empty ones at its end left out.

    A newline alone ends a line: texts may hold other characters that Python's `splitlines` would cut at.

    Raises:
        UserError: the file cannot be read, or is not UTF-8; the message names the line.
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _tsv_records(path: Path) -> Iterator[Row]:
    return ((number, line.split("\t")) for number, line in enumerate(text_lines(path), 1))


def _csv_records(path: Path) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    begin = 1
    try:
        for cells in reader:
            if cells:
                yield begin, cells
            begin = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}: line {begin}: not CSV ({error})") from None


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number}: not JSON ({error}); needs one JSON object a line") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}: line {number}: JSON but no object; needs one JSON object a line")
        yield number, record
