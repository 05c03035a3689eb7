import json
from pathlib import Path

import pytest

from ds_bert.data.corpus import Reading, describe_formats, detect_format, find_files, read_documents
from ds_bert.data.python_docs import prose_of_docstring, python_docs
from ds_bert.errors import UserError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def documents(path: Path, **reading: str) -> list[list[str]]:
    return [document.sentences() for document in read_documents([path], Reading(**reading))]


def test_lines_keep_a_sentence_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffFirst one\r\nsecond one\r\n\r\n\r\nother document\n")
    assert detect_format(path) == "lines"
    assert documents(path) == [["First one", "second one"], ["other document"]]


def test_prose_is_told_by_its_content_and_split(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "One is here. Two is there.\nThree follows. Four too.\n\nNext one. And more.\n")
    assert detect_format(path) == "prose"
    assert [len(document) for document in documents(path)] == [4, 2]
    assert [len(document) for document in documents(path, document_end="file")] == [6]
    assert [len(document) for document in documents(path, format="lines")] == [2, 1]


def test_wikitext_documents_begin_at_titles(tmp_path: Path) -> None:
    lines = [
        "",
        "= One =",
        "",
        "Text is here . More of it .",
        "",
        "= = Part = =",
        "",
        "Yes .",
        "",
        "= Two =",
        "",
        "New .",
    ]
    text = "".join(f" {line} \n" for line in lines)
    titles = [document[0] for document in documents(write(tmp_path / "wiki.txt", text))]
    assert titles == ["= One =", "= Two ="]


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_json_lines_by_name_or_content(tmp_path: Path, name: str) -> None:
    rows = [{"text": "One. Two.\nThree."}, {"text": ""}, {"text": "half a pair \ud800 here"}]
    path = write(tmp_path / name, "".join(json.dumps(row) + "\n" for row in rows))
    assert documents(path) == [["One.", "Two.", "Three."], [], ["half a pair \ufffd here"]]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("empty.txt", "\n \n\n", ["empty.txt", "no text"]),
        ("zero.txt", b"text\nmore\0text\n", ["zero.txt", "binary"]),
        ("latin.txt", b"fine\n" + "café\n".encode("latin-1"), ["latin.txt", "line 2", "0xe9", "UTF-8"]),
        ("bad.jsonl", '{"text": "fine"}\n{"text": \n', ["bad.jsonl", "line 2", "not JSON"]),
        (
            "digits.jsonl",
            '{"text": "fine"}\n{"text": "fine", "id": ' + "7" * 5000 + "}",
            ["line 2", "not JSON", "4300 digits"],
        ),
        ("list.jsonl", '["text"]\n', ["list.jsonl", "line 1", "list", "object"]),
        ("key.jsonl", '{"text": "fine"}\n\n{"body": "x"}\n', ["key.jsonl", "line 3", "'text'", "'body'", "--text_key"]),
        ("type.jsonl", '{"text": 3}\n', ["type.jsonl", "line 1", "int", "string"]),
    ],
)
def test_unusable_content_is_refused_by_file_and_line(
    tmp_path: Path, name: str, content: str, words: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        documents(write(tmp_path / name, content))
    assert all(word in str(error.value) for word in words), error.value


def test_an_object_that_cannot_be_read_as_json_is_text(tmp_path: Path) -> None:
    line = '{"id": ' + "7" * 5000 + "}"
    assert documents(write(tmp_path / "a.txt", f"{line}\n")) == [[line]]


def test_text_key(tmp_path: Path) -> None:
    assert documents(write(tmp_path / "a.jsonl", '{"body": "Hi."}\n'), text_key="body") == [["Hi."]]


def test_files_folders_and_patterns_are_found_once_and_in_order(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, "x\n") for name in ("in/a.txt", "in/b/c.txt", "in/out/old.txt", "z.txt")]
    write(tmp_path / "in/.hidden", "x\n")
    inputs = [str(tmp_path / "z*"), str(tmp_path / "in"), str(tmp_path / "in" / "a.txt")]
    found = find_files(inputs, output_dir=tmp_path / "in" / "out")
    assert found == [paths[3].resolve(), paths[0].resolve(), paths[1].resolve()]


@pytest.mark.parametrize("name", ["absent.txt", "absent*", "empty"])
def test_inputs_that_name_nothing_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no such file"):
        find_files([str(tmp_path / name)])


def test_an_empty_file_is_refused_before_reading(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "text\n")
    write(tmp_path / "b.txt", "")
    with pytest.raises(UserError, match=r"b\.txt: is empty"):
        find_files([str(tmp_path)])


def test_text_without_blank_lines_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds_bert.data.corpus._LONGEST_DOCUMENT_BYTES", 100)
    lengths = [len(document) for document in documents(write(tmp_path / "a.txt", "0123456789\n" * 50))]
    assert sum(lengths) == 50 and max(lengths) <= 10


def test_docstrings_become_prose_only() -> None:
    docstring = """Return the sum of all items, or zero.

    Longer text that goes on
    over two lines. It ends.

    >>> total([1, 2])
    3

        indented = code(here)

    total(items) -> int
    """
    assert list(prose_of_docstring(docstring)) == [
        "Return the sum of all items, or zero.",
        "Longer text that goes on over two lines. It ends.",
    ]


def test_python_docs_are_a_corpus() -> None:
    found = []
    for document in python_docs():
        found.append(document.sentences())
        if len(found) == 40:
            break
    assert len(found) == 40 and all(found)
    assert not any(">>>" in sentence for document in found for sentence in document)


@pytest.mark.parametrize("count", [1, 2, 20, 25])
def test_formats_that_are_guessed_are_described(tmp_path: Path, count: int) -> None:
    contents = {
        "lines": "One sentence.\nAnother one.\n",
        "prose": "One sentence. Another one.\nA third. A fourth.\n",
        "jsonl": '{"text": "One."}\n',
    }
    files = [write(tmp_path / f"{number:02}.txt", list(contents.values())[number % 3]) for number in range(count)]
    said = describe_formats(files)
    for number, name in enumerate(list(contents)[:count]):
        others = len(range(number, min(count, 20), 3)) - 1
        named = f"{tmp_path / f'{number:02}.txt'}{f' and {others} more' if others else ''}: taken for a "
        assert said[number].startswith(named) and said[number].endswith(f"(--format {name})")
    assert said[min(count, 3) :] == (["and so on: each of the 25 files by its own content"] if count > 20 else [])
