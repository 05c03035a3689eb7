"""Text of any origin: byte order marks, blank lines, compression and other encodings, in every format that is read."""

import codecs
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ds_bert.cluster.hostfile import load_hostfile
from ds_bert.data.corpus import read_documents
from ds_bert.data.tables import open_table
from ds_bert.data.tagging import read_sentences
from ds_bert.data.vocabulary import SPECIAL_TOKENS, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.files import read_json, read_text, suffix_of
from ds_bert.meta.tasks.published_files import read_examples
from ds_bert.modeling.config import load_model_config
from ds_bert.multitask.task_list import read_tasks
from ds_bert.stage_map import load_stage_map
from ds_bert.tasks.multiple_choice.reading import read_dream, read_own_questions
from ds_bert.tasks.squad.reading import read_squad
from ds_bert.training.job_arguments import PretrainArguments
from ds_bert.training.parser import parse_arguments

REPOSITORY = Path(__file__).resolve().parent.parent
QUESTION = {"context": "c", "question": "q", "options": ["a", "b"], "label": 0}
EXAMPLES = [{"input_ids": [5, 6], "input_mask": [1, 1], "segment_ids": [0, 0], "label_ids": k} for k in (0, 1)]
TOKENS = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(100))]
SQUAD = {"data": [{"paragraphs": [{"context": "a b", "qas": [{"id": "1", "question": "q", "answers": [
    {"text": "a", "answer_start": 0}]}]}]}]}  # fmt: skip
MODEL = json.loads((REPOSITORY / "ds_configs" / "models" / "bert-demo.json").read_text())
MAP = {"module_to_stage_map": [0, 1, 1], "stage_to_rank_map": {"0": [0], "1": [1]}}


def _rows(path: Path) -> Any:
    return [cells for _, cells in open_table(path).read(["text", "label"])]


def _texts(path: Path) -> Any:
    return [document.sentences() for document in read_documents([path])]


def _lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def _sentences(path: Path) -> Any:
    return [(sentence.words, sentence.tags) for sentence in read_sentences(path)]


def _features(path: Path) -> Any:
    found = read_examples(path, 2, 10)
    return [array.tolist() for array in (found.tokens, found.starts, found.columns["labels"])]


# The name of a file, its content, where it may have blank lines (or None), and what reads it.
FORMATS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "lines": ("a.txt", "one sentence\nanother one\n", _texts),
    "prose": ("a.txt", "One is here. Two is there.\nThree. Four.\n", _texts),
    "JSON lines of text": ("a.jsonl", _lines({"text": "One. Two."}, {"text": "Three é."}), _texts),
    "JSON lines told by content": ("a.txt", _lines({"text": "One. Two."}, {"text": "Three é."}), _texts),
    "csv": ("a.csv", 'text,label\n"a ""b""",x\né,y\n', _rows),
    "csv with a quoted header": ("a.csv", '"text","label"\na,x\n', _rows),
    "tsv": ("a.tsv", "text\tlabel\na\tx\né\ty\n", _rows),
    "table of JSON lines": ("a.jsonl", _lines({"text": "a", "label": "x"}, {"text": "é", "label": "y"}), _rows),
    "CoNLL": ("a.conll", "EU B-ORG\nrejects O\n\nPeter B-PER\nBlackburn I-PER\n", _sentences),
    "CoNLL with tabs": ("a.txt", "EU\tB-ORG\nNew York\tO\n", _sentences),
    "tagged JSON lines": ("a.jsonl", _lines({"words": ["EU", "é"], "tags": ["B-ORG", "O"]}), _sentences),
    "questions": ("a.jsonl", _lines(QUESTION, QUESTION | {"label": 1}), lambda path: [
        (question.text, question.answer) for question in read_own_questions(path)]),
    "SQuAD": ("a.json", json.dumps(SQUAD, indent=1), lambda path: read_squad(path, False).questions),
    "DREAM": ("train.json", json.dumps([[["a: b"], [{"question": "q", "choice": ["a", "b"], "answer": "a"}], "id"]]),
              lambda path: [(question.text, question.answer) for question in read_dream(path.parent, "train")]),
    "encoded examples, a list": ("a_2.json", json.dumps(EXAMPLES), _features),
    "encoded examples, a line each": ("a_2.jsonl", _lines(*EXAMPLES), _features),
    "model": ("config.json", json.dumps(MODEL), load_model_config),
    "stage map": ("map.json", json.dumps(MAP), lambda path: load_stage_map(path, 3, 2)),
    "arguments": ("run.json", json.dumps({"max_steps": 7}), lambda path: parse_arguments(
        PretrainArguments, [str(path)])),
    "task names": ("tasks.txt", "RTE\nMRPC\n", lambda path: read_tasks([str(path)])),
    "task list": ("tasks.json", '["RTE", "MRPC"]', lambda path: read_tasks([str(path)])),
    "hostfile": ("hosts", "node0 slots=2\nnode1 slots=2\n", lambda path: load_hostfile(path).names),
    "tokenizer_config.json": ("tokenizer_config.json", '{"do_lower_case": false}', lambda path: (
        (path.parent / "vocab.txt").write_text("\n".join(TOKENS)), load_tokenizer(path.parent).fingerprint)),
    "vocabulary": ("vocab.txt", "\n".join(TOKENS) + "\n", lambda path: load_tokenizer(path).fingerprint),
}  # fmt: skip
PLAIN = ("hostfile",)  # the launcher reads it, too, and takes neither a mark nor gzip: see tests/cluster
NO_BLANK_LINES = ("vocabulary",)  # a line is an id
BLANK_LINES_COUNT = ("lines", "prose", "CoNLL", "CoNLL with tabs")  # they end a document, or a sentence


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_takes_marks_blank_lines_line_ends_and_gzip(tmp_path: Path, kind: str) -> None:
    name, content, read = FORMATS[kind]
    path = tmp_path / name
    path.write_text(content)
    expected = read(path)
    assert expected
    variants = {
        "mark": codecs.BOM_UTF8 + content.encode(),
        "line ends": content.replace("\n", "\r\n").encode(),
        "gzip": gzip.compress(content.encode()),
        "gzip and mark": gzip.compress(codecs.BOM_UTF8 + content.encode()),
        "gzip in two parts": gzip.compress(content[:9].encode()) + gzip.compress(content[9:].encode()),
    }
    if kind not in NO_BLANK_LINES:
        variants |= {
            "blank lines around": f"\n \n{content}\n  \n\n".encode(),
            "mark before a blank line": codecs.BOM_UTF8 + f"\r\n{content}".encode(),
        }
    if kind not in (*NO_BLANK_LINES, *BLANK_LINES_COUNT):
        variants["blank lines between"] = content.replace("\n", "\n\n").encode()
    if kind in PLAIN:
        variants = {name: data for name, data in variants.items() if "mark" not in name and "gzip" not in name}
    for variant, data in variants.items():
        path.write_bytes(data)
        assert repr(read(path)) == repr(expected).replace("a.txt", path.name), variant


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_names_what_is_not_utf_8_text(tmp_path: Path, kind: str) -> None:
    name, content, read = FORMATS[kind]
    path, whole = tmp_path / name, gzip.compress(content.encode())
    cases = {
        "is UTF-16 text": [content.encode(code) for code in ("utf-16", "utf-16-le", "utf-16-be")],
        "is UTF-32 text": [content.encode("utf-32")],
        "is compressed by xz": [b"\xfd7zXZ\0" + b"\x80\x01" * 40],
        "is a zip archive": [b"PK\x03\x04" + b"\x80\x01" * 40],
        "cannot be decompressed": [whole[:-9], whole[:-8] + bytes(8), whole[:10] + b"\xff" * 50],
        "line 1: .*0xe9": [b"\xe9" + content.encode()],
    }
    for words, contents in cases.items():
        for data in contents:
            path.write_bytes(data)
            with pytest.raises(UserError, match=rf"{name}: {words}"):
                read(path)
    if kind == "tokenizer_config.json":
        return  # it may be missing
    path.unlink()
    with pytest.raises(UserError, match=f"{name}"):
        read(path)
    path.mkdir()
    with pytest.raises(UserError, match=f"{name}"):
        read(path)


def test_lines_are_counted_behind_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(codecs.BOM_UTF8 + b'{\n"a": 1,\n"b": \xff}')
    with pytest.raises(UserError, match=r"a\.json: line 3: byte 0xff is not UTF-8"):
        read_json(path)
    path.write_bytes(codecs.BOM_UTF8 + b'{\n"a": 1,\n"b": x}')
    with pytest.raises(UserError, match=r"a\.json: line 3, column 6: not JSON"):
        read_json(path)


@pytest.mark.parametrize("text", ["漢字だけのテキスト", "Ελληνικά", "", "a", "\0", "a\0", "zero \0 byte in it"])
def test_other_text_is_not_taken_for_utf_16(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    assert read_text(path) == text


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.csv", ".csv"), ("a.CSV.GZ", ".csv"), ("a.b.txt.gz", ".txt"), ("a.gz", ""), ("a", "")]
)
def test_the_ending_that_tells_the_kind(name: str, suffix: str) -> None:
    assert suffix_of(Path(name)) == suffix


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can become somebody else")
def test_files_without_permission_are_not_said_to_be_missing(tmp_path: Path) -> None:
    """In a process of another user: root may read everything."""
    program = """
import os, sys
from pathlib import Path
import ds_bert.data.corpus, ds_bert.data.tables, ds_bert.meta.tasks.groups
from ds_bert.checkpoint.tensors import TensorFolder
from ds_bert.checkpoint.convert.foreign_model import load_pickle
from ds_bert.errors import exit_on_user_error
from ds_bert.data import corpus, tables
from ds_bert.meta.tasks import groups
from ds_bert.files import read_json
folder = Path(sys.argv[1])
os.setuid(65534)
for job in (
    lambda: TensorFolder(folder),
    lambda: groups._read_matrix(folder),
    lambda: load_pickle(folder / "pytorch_model.bin"),
    lambda: read_json(folder / "a.json"),
    lambda: tables.open_table(folder / "a.csv"),
    lambda: list(corpus.read_documents([folder / "a.txt"])),
    lambda: (folder / "closed" / "a").read_text(),
    lambda: (folder / "closed" / "a").mkdir(),
):
    assert exit_on_user_error(job) == 2
"""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and str(parent) != "/":
            parent.chmod(parent.stat().st_mode | 0o011)
    names = ["model.safetensors", "pytorch_model.bin", "a.json", "a.csv", "a.txt", "closed"]
    (tmp_path / "closed").mkdir()
    for name in names:
        if name != "closed":
            (tmp_path / name).write_text("text")
        (tmp_path / name).chmod(0)
    ended = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    said = ended.stderr.splitlines()
    assert ended.returncode == 0, ended.stderr
    expected = ["model.safetensors", "model.safetensors", "pytorch_model.bin", "a.json", "a.csv", "a.txt"]
    assert [line.split(": ")[1] for line in said[:6]] == [str(tmp_path / name) for name in expected]
    assert len(said) == 8 and all("Permission denied" in line for line in said)
