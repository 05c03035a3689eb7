"""Text of any shape: long runs of any sign take time in proportion to their length, long lines bounded memory."""

import ast
import io
import json
import os
import random
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ds_bert.data import corpus, encoding
from ds_bert.data.corpus import RawDocument, Reading, read_documents
from ds_bert.data.encoding import NumberedDocument, cut_text, encode_chunk
from ds_bert.data.python_docs import prose_of_docstring
from ds_bert.data.sentences import split_sentences
from ds_bert.data.tables import open_table
from ds_bert.data.tagging import read_conll
from ds_bert.data.tokenizer_files import wordpiece
from ds_bert.data.vocabulary import SPECIAL_TOKENS, Tokenizer
from ds_bert.errors import UserError
from ds_bert.tasks.multiple_choice.features import fill_in
from ds_bert.tasks.squad.metrics import normalize_answer
from tests.support.processes import run_on_ranks

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SIGNS = "aAé漢1 \t\u00a0\r\n.!?…。！\"'”’」()[]{}<>=_-–,;:/\\@#*~|`^\u0301\u200b\u2028😀"
GROUPS = [
    ". ",
    '."',
    ".]",
    "a.",
    "a ",
    "A. ",
    "Dr. ",
    "e.g. ",
    "1.",
    "= ",
    " =",
    "= a =",
    "_a",
    "_ ",
    "\n ",
    "\n\n",
    "' ",
]
GROUPS += ["the ", "a\u0301", "。」", "\\u", '""', '",', "\t\t", "ab-", "x/", " slots=1"]
RUNS = [*SIGNS, *GROUPS]


def texts(length: int, forms: int) -> list[str]:
    """Long runs of each sign and group of signs, in one to three forms: between others, and alone."""
    runs = [unit * (length // len(unit)) for unit in RUNS]
    return [text for run in runs for text in (f"Contents {run}7", run, f"a{run} x")[:forms]]


METHODS = ("match", "fullmatch", "search", "findall", "finditer", "split", "sub", "subn")


def uses_of_expressions() -> list[tuple[str, str, re.Pattern]]:
    """(place, method, expression) of every use of a regular expression in the package."""
    found = []
    for file in sorted((REPOSITORY / "ds_bert").rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        calls = [call for call in calls if isinstance(call.func, ast.Attribute)]
        expressions = {id(call): _expression(call) for call in calls if ast.unparse(call.func.value) == "re"}
        for call in calls:
            if id(call) in expressions:  # re.split(…), or NAME = re.compile(…)
                methods = [(call.lineno, call.func.attr)]
                if call.func.attr == "compile":
                    name = file.read_text().splitlines()[call.lineno - 1].split(" =")[0].strip()
                    methods = [(use.lineno, use.func.attr) for use in calls if ast.unparse(use.func.value) == name]
                    assert methods, (file, name)
                found += [
                    (f"{file.name}:{line}", method, expressions[id(call)])
                    for line, method in methods
                    if expressions[id(call)] is not None
                ]
    assert {method for _, method, _ in found} <= set(METHODS)
    return found


def _expression(call: ast.Call) -> re.Pattern | None:
    if not isinstance(call.args[0], ast.Constant):
        return None
    return re.compile(call.args[0].value, re.IGNORECASE if "IGNORECASE" in ast.unparse(call) else 0)


def _apply_all_expressions(length: int, forms: int) -> int:
    applied = 0
    for _, method, pattern in uses_of_expressions():
        for text in texts(length, forms):
            words = ["", text] if method.startswith("sub") else [text]
            found = getattr(pattern, method)(*words)
            applied += 1 if method != "finditer" else len(list(found)) >= 0
    return applied


def _read(folder: str, name: str, text: str) -> None:
    path = Path(folder) / name
    path.write_text(text, encoding="utf-8", newline="")
    if path.suffix in (".tsv", ".csv", ".conll"):
        with suppress(UserError):  # a run of quotes is no CSV
            list(open_table(path).rows()) if path.suffix != ".conll" else read_conll(path)
    else:
        for document in read_documents([path], Reading(format="auto")):
            document.sentences()


def _split_all(length: int, folder: str, forms: int) -> int:
    applied = 0
    for text in texts(length, forms):
        for function in (split_sentences, normalize_answer, cut_text, lambda text: fill_in(text, "option")):
            function(text)
        list(prose_of_docstring(text))
        _read(folder, "a.txt", f"= Title = \n{text}\n")
        _read(folder, "b.txt", text + " text")
        _read(folder, "c.jsonl", json.dumps({"text": text + " text"}) + "\n")
        _read(folder, "d.tsv", f"text\tlabel\n{text}\tx\n")
        _read(folder, "e.csv", f"text,label\n{text},x\n")
        _read(folder, "f.conll", f"EU B-ORG\n{text} O\n")
        applied += 11
    return applied


# A square of such a run takes minutes: the limit says whether there is one, not how fast a machine is.
EFFORTS = [
    pytest.param(50_000, 1, 120, id="quick"),
    pytest.param(300_000, 3, 540, id="long", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("length", "forms", "limit"), EFFORTS)
def test_no_expression_takes_square_time(length: int, forms: int, limit: int) -> None:
    uses = uses_of_expressions()
    assert len(uses) > 25
    assert run_on_ranks(_apply_all_expressions, 1, length, forms, timeout=limit) == [len(uses) * forms * len(RUNS)]


@pytest.mark.parametrize(("length", "forms", "limit"), EFFORTS)
def test_no_splitter_takes_square_time(tmp_path: Path, length: int, forms: int, limit: int) -> None:
    found = run_on_ranks(_split_all, 1, length, str(tmp_path), forms, timeout=limit)
    assert found == [11 * forms * len(RUNS)]


def test_runs_of_signs_are_split_as_before() -> None:
    """Only where a run of signs is followed by space can a sentence end."""
    assert split_sentences("Contents " + "." * 1000 + "7 pages. Next one.") == [
        "Contents " + "." * 1000 + "7 pages.",
        "Next one.",
    ]
    assert split_sentences("Wait... What?! Ah!so. Yes!") == ["Wait...", "What?!", "Ah!so.", "Yes!"]
    assert split_sentences("A。.. B") == ["A。", "..", "B"]
    for dots in (1, 2, 3, 50):
        assert split_sentences(f'One{"." * dots}) Two{"!" * dots}" Three') == [
            f"One{'.' * dots})",
            f'Two{"!" * dots}"',
            "Three",
        ]


@pytest.mark.parametrize(
    ("text", "filled"),
    [("a ___ b", "a X b"), ("a___ b", "aX b"), ("a ___b", "a Xb"), ("get_name", "get_name X"), ("_", "X"),
     ("a" + "_" * 1000 + "b", "a" + "_" * 1000 + "b X"), ("__a__", "XaX")],
)  # fmt: skip
def test_blanks_are_filled_as_before(text: str, filled: str) -> None:
    assert fill_in(text, "X") == filled


LINES = {
    "words": b"one two three four five six seven\n",
    "no space": b"abcdefghijklmnopqrstuvwxyz0123456789\n",
    "Chinese": "漢字仮名交じり文テキスト\n".encode(),
    "short": b"a\n\nb\n",
    "space at the cut": b"1234567 \n12345678\n\n123456789\r\n",
    "no end": b"one two three four",
    "spaces": b" " * 40 + b"\n" + b"a" + b" " * 40,
    "no UTF-8": b"\x80" * 50 + b"\n",
}


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("longest", [8, 9, 13, 1000])
def test_long_lines_come_in_parts(kind: str, longest: int) -> None:
    content = LINES[kind] * 3
    parts = list(corpus._numbered_lines(io.BytesIO(content), longest))
    assert b"".join(part for _, part in parts) == content
    whole = content.splitlines(keepends=True) if b"\r" not in content else content.split(b"\n")
    for number, line in enumerate(whole, 1):
        found = b"".join(part for place, part in parts if place == number)
        assert found.rstrip(b"\n") == line.rstrip(b"\n")
    assert all(0 < len(part) < 2 * longest for _, part in parts)
    if kind != "no UTF-8":
        for _, part in parts:
            part.decode()  # no character is cut


def test_a_long_line_is_read_whole_however_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word{number}" for number in range(200)]
    path = tmp_path / "a.txt"
    path.write_text("\ufeffshort\n" + " ".join(words) + " \n\nnext document\n" + json.dumps({"text": "a"}))
    whole = [document.sentences() for document in read_documents([path], Reading("lines"))]
    assert [len(document) for document in whole] == [2, 2]
    monkeypatch.setattr(corpus, "_LONGEST_LINE_BYTES", 64)
    cut = [document.sentences() for document in read_documents([path], Reading("lines"))]
    assert [" ".join(document) for document in cut] == [" ".join(document) for document in whole]
    assert max(len(sentence) for document in cut for sentence in document) < 2 * 64
    path.write_text(json.dumps({"text": " ".join(words)}) + "\n")  # told by its first line, which is long
    assert [document.sentences() for document in read_documents([path])] == [[" ".join(words)]]


@pytest.fixture
def tokenizer() -> Tokenizer:
    letters = "abcdefghij"
    tokens = [*SPECIAL_TOKENS, ".", *letters, *(f"##{letter}" for letter in letters), *(f"w{n}" for n in range(90))]
    return Tokenizer(wordpiece({token: place for place, token in enumerate(tokens)}, True), "test")


def test_sentences_tokenised_in_pieces_are_the_same(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    lines = [" ".join("".join(rng.choices("abcjz.", k=rng.randint(1, 9))) for _ in range(n)) for n in range(60)]
    lines += ["\t".join(["a"] * 99), " " * 300 + "b", "\u00a0".join(["c"] * 40)]
    documents = [NumberedDocument(n, RawDocument(lines[n : n + 5], False, 1)) for n in range(0, len(lines), 5)]
    whole = encode_chunk(tokenizer.for_corpora, documents)
    assert whole.sentence_lengths.max() > 190
    for longest, characters in ((50, 70), (16, 16), (100, 1 << 20)):
        monkeypatch.setattr(encoding, "_LONGEST_PIECE", longest)
        monkeypatch.setattr(encoding, "_CHARACTERS_AT_A_TIME", characters)
        pieces = encode_chunk(tokenizer.for_corpora, documents)
        for name in ("tokens", "sentence_lengths", "document_lengths", "num_unknown"):
            np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name))
    empty = encode_chunk(tokenizer.for_corpora, [NumberedDocument(0, RawDocument([], False, 1))])
    assert (len(empty.tokens), empty.document_lengths.tolist()) == (0, [0])


@pytest.mark.parametrize("text", ["", "a", "a b " * 1000, "a" * 1000, "a\n" * 700, " " * 500, "漢" * 300 + " x"])
def test_pieces_make_up_the_text(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(encoding, "_LONGEST_PIECE", 100)
    pieces = cut_text(text)
    assert "".join(pieces) == text and max(map(len, pieces)) <= 100


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [["--tokenizer_name", "vocab.txt"], ["--train_vocab", "200"]])
@pytest.mark.parametrize("kind", ["words", "dots", "letters", "Chinese", "one JSON record"])
def test_a_line_of_twelve_megabytes_takes_little_memory(tmp_path: Path, vocabulary: list[str], kind: str) -> None:
    """Beside what Python and its libraries take; it took 1.1 to 1.4 GB."""
    rng = random.Random(0)
    words = " ".join(rng.choices(["bad", "cab", "dad", "face", "jig"], k=3_000_000))
    line = {"words": words, "dots": "." * 12_000_000, "letters": "a" * 12_000_000, "Chinese": "漢" * 4_000_000,
            "one JSON record": json.dumps({"text": words})}[kind]  # fmt: skip
    some = " ".join("".join(rng.choices("abcdefghijklmnop", k=4)) for _ in range(2000))
    rest = json.dumps({"text": some}) if "JSON" in kind else f"bad cab .\n\n{some}"
    (tmp_path / "text.txt").write_text(f"{rest}\n{line}\n")
    tokens = [*SPECIAL_TOKENS, ".", *"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghij"),
              *(f"w{number}" for number in range(90))]  # fmt: skip
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    command = [sys.executable, "-m", "ds_bert.cli", "prepare", "--input", "text.txt", *vocabulary]
    command += ["--num_workers", "1", "--output_dir", "out"]
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "text.txt").write_text(f"{rest}\n{rest if 'JSON' in kind else line[:1000]}\n")
    (tmp_path / "short" / "vocab.txt").write_text("\n".join(tokens))
    assert _peak_memory(command, tmp_path) - _peak_memory(command, tmp_path / "short") < 350 << 20


def _peak_memory(command: list[str], folder: Path) -> int:
    """Bytes that a command takes at the most."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss * 1024


@pytest.mark.parametrize("character", ["a", "é", "漢", "😀"])
def test_a_long_line_is_cut_between_characters(character: str) -> None:
    text = ("a" + character * 9).encode()
    for length in range(2, len(text) + 1):
        end = corpus._end_of_part(text[:length])
        assert 0 < end <= length and text[:end].decode() + text[end:].decode() == text.decode()
