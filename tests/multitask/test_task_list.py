"""Lists of tasks: names, files of names, declarations, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from ds_bert.errors import UserError
from ds_bert.multitask.task_list import PAPER, TaskEntry, read_tasks


def test_names() -> None:
    assert [entry.name for entry in read_tasks([])] == list(PAPER) and len(PAPER) == 9
    assert [entry.name for entry in read_tasks(["SST-2", "mnli", "SciTail"])] == ["sst2", "mnli", "scitail"]
    assert [entry.name for entry in read_tasks([], ["rte", "snli"])] == ["rte", "snli"]
    assert not read_tasks(["SNLI"])[0].is_own


def test_a_file_of_names(tmp_path: Path) -> None:
    (tmp_path / "tasks.txt").write_text("CoLA\n\nSTS-B\n")
    assert [entry.name for entry in read_tasks([str(tmp_path / "tasks.txt")])] == ["cola", "stsb"]


def test_declarations(tmp_path: Path) -> None:
    own = {"name": "mine", "train_file": "a.csv", "text_columns": ["x", "y"], "label_column": "z", "labels": ["p", "q"]}
    (tmp_path / "tasks.json").write_text(json.dumps(["MRPC", own, {"name": "number", "regression": True}]))
    official, mine, number = read_tasks([str(tmp_path / "tasks.json")])
    assert official == TaskEntry("mrpc") and mine.is_own
    expected = TaskEntry("mine", tmp_path / "a.csv", None, None, ("x", "y"), "z", ("p", "q"), False)
    assert mine == expected and number.regression is True


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"name": "x", "labels": 5}], 'task 1: "labels" is 5 (a int), needed is a list of texts'),
        ([{"name": "x", "labels": ["a", 1]}], '"labels" is'),
        ([{"name": "x", "labels": ["a", "a"]}], "at least two to tell apart"),
        ([{"name": "x", "labels": ["a", "a", "b"]}], "\"labels\" is ['a', 'a', 'b'], needed is each once"),
        ([{"name": "x", "regression": "yes"}], "\"regression\" is 'yes' (a str), needed is true or false"),
        ([{"name": "x", "regression": True, "labels": ["a", "b"]}], "needed is one"),
        ([{"name": "x", "colour": "red"}], "unknown key 'colour'"),
        ([{"name": "x", "train_file": 1}], '"train_file" is 1 (a int), needed is a text'),
        ([{"name": "x", "text_columns": ["a", "b", "c"]}], "names 3 columns"),
        ([{"name": "../x"}], "\"name\" is '../x'"),
        ([{"name": "cola"}], "no official task's name"),
        ([{"name": "s-s_t2"}], "no official task's name"),
        ([{"name": "average"}], "\"name\" is 'average', which results call all tasks together"),
        ([{"name": "spread"}], "needed is another"),
        ([{"name": "all"}], "needed is another"),
        ([{}], '"name" is None'),
        (["SST-2", 5], "task 2 is 5"),
        (["SST-2", "sst2"], "the task sst2 stands there twice"),
        (["SST-3"], "task 1: no task 'SST-3' is known"),
        (["ax"], "no task 'ax' is known"),
        ({"not": "a list"}, "holds a dict, needed is a list"),
        ([], "found no task"),
    ],
)
def test_mistakes(tmp_path: Path, content: Any, expected: str) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        read_tasks([str(path)])
    assert expected in str(error.value) and str(path) in str(error.value)


def test_a_checkpoint_of_own_tasks_needs_their_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trained on reviews, .* needed is --tasks with the file"):
        read_tasks([], ["cola", "reviews"])
    (tmp_path / "own.json").write_text(json.dumps(["CoLA", {"name": "reviews"}]))
    entries = read_tasks([str(tmp_path / "own.json")], ["cola", "reviews"])
    assert [entry.name for entry in entries] == ["cola", "reviews"]


@pytest.mark.parametrize("words", [["nowhere.json"], ["nowhere.txt"]])
def test_a_missing_file(words: list[str]) -> None:
    with pytest.raises(UserError, match="nowhere"):
        read_tasks(words)
