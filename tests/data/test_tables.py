"""Rows of TSV, CSV and JSON lines: none lost, none merged, and a sentence for each that is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ds_bert.data.tables import Table, open_table
from ds_bert.errors import UserError

Write = Callable[[str, "str | bytes"], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def rows(table: Table) -> list[tuple[int, tuple[object, ...]]]:
    return list(table.read(table.columns))


def test_tsv_takes_quotes_and_odd_characters_as_they_are(write: Write) -> None:
    texts = ['"', 'he said "no', "form\x0cfeed", "next\x85line", "separator\u2028here", "return\rinside", "漢字", ""]
    path = write("a.tsv", "text\tlabel\n" + "".join(f"{text}\t1\n" for text in texts))
    assert rows(open_table(path)) == [(line, (text, "1")) for line, text in enumerate(texts, 2)]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_endings_and_byte_order_mark(write: Write, ending: str, newline: str) -> None:
    path = write("a.tsv", b"\xef\xbb\xbf" + (newline.join(["a\tb", "1\t2", "3\t4"]) + ending).encode())
    table = open_table(path)
    assert table.columns == ("a", "b")
    assert rows(table) == [(2, ("1", "2")), (3, ("3", "4"))]


def test_columns_are_read_by_name_in_any_order(write: Write) -> None:
    table = open_table(write("a.tsv", "x\ty\tz\n1\t2\t3\n"))
    assert list(table.read(["z", "x"])) == [(2, ("3", "1"))]
    headerless = open_table(write("b.tsv", "1\t2\t3\n"), columns=["p", "q", "r"])
    assert list(headerless.read(["q"])) == [(1, ("2",))]


def test_csv_is_quoted_and_lines_are_those_of_the_file(write: Write) -> None:
    table = open_table(write("a.csv", 'text,label\n"one, ""two""",x\n"two\nlines",y\nlast,z\n'))
    assert rows(table) == [(2, ('one, "two"', "x")), (3, ("two\nlines", "y")), (5, ("last", "z"))]


def test_json_lines_keep_types_and_show_what_is_missing(write: Write) -> None:
    table = open_table(write("a.jsonl", '{"text": "a\\nb", "label": 1}\n{"label": 2.5, "more": 0}\n'))
    assert rows(table) == [(1, ("a\nb", 1)), (2, (None, 2.5))]


def test_half_a_surrogate_pair_is_replaced_wherever_it_stands(write: Write) -> None:
    table = open_table(write("a.jsonl", r'{"text": "a\ud83d\ude00", "label": "\ud83d", "words": ["b\ude00", 1]}'))
    assert rows(table) == [(1, ("a\U0001f600", "\ufffd", ["b\ufffd", 1]))]


@pytest.mark.parametrize("cell", [None, 5, ["a"]])
def test_a_cell_that_is_no_text_is_named(write: Write, cell: object) -> None:
    table = open_table(write("a.jsonl", '{"text": "a"}'))
    assert table.text(1, "text", "a") == "a"
    with pytest.raises(UserError, match=r"a\.jsonl: line 3: .* in the column 'text', which needs text"):
        table.text(3, "text", cell)


BAD = [
    ("a.tsv", b"", "is empty"),
    ("a.csv", b"", "is empty"),
    ("a.jsonl", b"", "is empty"),
    ("a.xlsx", b"a", "ends in '.xlsx'; needs one of .tsv"),
    ("a.tsv", b"a\tb\ta\n1\t2\t3\n", "line 1: the column 'a' stands there twice"),
    ("a.tsv", b"a\tb\n1\t2\n3\n", r"line 3: 1 fields, but 2 are needed \(a, b\)"),
    ("a.tsv", b"a\tb\n1\t2\t3\n", "line 2: 3 fields, but 2"),
    ("a.csv", b"a,b\n1,2\n\n1\n", "line 4: 1 fields, but 2"),
    ("a.csv", b'a,b\n1,"open\n2,3\n', "line 2: not CSV"),
    ("a.tsv", b"a\tb\n1\t2\n3\t\xe9t\xe9\n", "line 3: byte 0xe9 is not UTF-8"),
    ("a.tsv", "a\tb\n1\t2\n".encode("utf-16"), "is UTF-16 text, needs UTF-8"),
    ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2: not JSON .*one JSON object a line"),
    ("a.json", b'[{"a": 1}]', "line 1: JSON but no object"),
]


@pytest.mark.parametrize("blank", ["", " ", "\u00a0"])
def test_blank_lines_are_no_rows(write: Write, blank: str) -> None:
    tsv = open_table(write("a.tsv", f"{blank}\na\tb\n1\t2\n{blank}\n\t\n3\t4\n{blank}\n"))
    assert rows(tsv) == [(3, ("1", "2")), (5, ("", "")), (6, ("3", "4"))]
    assert rows(open_table(write("a.csv", f"{blank}\na,b\n1,2\n{blank}\n3,4\n{blank}\n"))) == [
        (3, ("1", "2")),
        (5, ("3", "4")),
    ]
    assert rows(open_table(write("a.jsonl", f'{blank}\n{{"a": 1}}\n{blank}\n{{"a": 2}}\n{blank}\n'))) == [
        (2, (1,)),
        (4, (2,)),
    ]
    # Where there is one column, an empty cell is a row.
    assert rows(open_table(write("a.tsv", f"\na\nx\n{blank}\ny\n"))) == [(3, ("x",)), (4, (blank,)), (5, ("y",))]


@pytest.mark.parametrize("length", [131_071, 131_073, 2_000_000])
def test_long_cells(write: Write, length: int) -> None:
    text = "ab " * (length // 3)
    for name, content in (
        ("a.csv", f'text,label\n"{text}",x\n{text},y\n'),
        ("a.tsv", f"text\tlabel\n{text}\tx\n{text}\ty\n"),
        ("a.jsonl", f'{{"text": "{text}", "label": "x"}}\n{{"text": "{text}", "label": "y"}}\n'),
    ):
        assert [cells for _, cells in rows(open_table(write(name, content)))] == [(text, "x"), (text, "y")]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_a_bad_file_is_named_with_its_line(write: Write, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: .*{message}"):
        rows(open_table(write(name, content)))


def test_a_missing_file_or_column_is_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"b\.tsv: no such file"):
        open_table(tmp_path / "b.tsv")
    with pytest.raises(UserError, match=r"a\.tsv: line 1: no column 'c' among those found: 'a', 'b'"):
        next(open_table(write("a.tsv", "a\tb\n1\t2\n")).read(["a", "c"]))


def test_few_incomplete_lines_may_be_left_out_with_a_note(write: Write) -> None:
    path = write("a.tsv", "a\tb\n" + "1\t2\n" * 18 + "3\n")
    table = open_table(path, incomplete=0.05)
    for _ in range(2):  # once, however often it is read
        assert len(rows(table)) == 18
        assert table.notes == [f"{path}: left out 1 incomplete lines, the first is line 20"]
    with pytest.raises(UserError, match=r"line 20: not 2 fields \(a, b\), and 1 of 20 lines"):
        rows(open_table(path, incomplete=0.04))


def test_the_fingerprint_follows_content_and_layout(write: Write) -> None:
    content = "a\tb\n1\t2\n"
    first = open_table(write("a.tsv", content)).fingerprint
    assert open_table(write("b.tsv", content)).fingerprint == first
    others = [
        open_table(write("c.tsv", content + "3\t4\n")),
        open_table(write("d.csv", content)),
        open_table(write("a.tsv", content), columns=["a", "b"]),
        open_table(write("a.tsv", content), incomplete=0.1),
    ]
    assert len({first, *(table.fingerprint for table in others)}) == 5
