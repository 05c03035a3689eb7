"""From a list of tasks to one task: what is read, what is used of it, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.errors import UserError
from ds_bert.multitask.task_list import read_tasks
from ds_bert.multitask.tasks import MultitaskTask, build_tasks, check_training, combine
from ds_bert.tasks.task import DataOptions
from tests.support.many_tasks import write_tasks

RATINGS = {"name": "ratings", "train_file": "ratings.csv", "validation_file": "ratings.csv", "regression": True}
SORTED = {"name": "sorted", "train_file": "sorted.csv", "validation_file": "sorted.csv"}
UNCLEAR = {"name": "unclear", "train_file": "unclear.csv", "validation_file": "unclear.csv"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tasks(tmp_path_factory.mktemp("many"))
    (folder / "ratings.csv").write_text("text,label\na,1.5\nb,2.0\nc,4.5\n")
    (folder / "sorted.csv").write_text("text,label\n" + "a,no\n" * 30 + "b,yes\n" * 30)
    (folder / "unclear.csv").write_text("first,second,label\na,b,no\nc,d,yes\n")
    return folder


def combined(
    folder: Path, tasks: list[Any], share: float = 1.0, sampling: str = "sequential", splits: tuple = ("train", "eval")
) -> MultitaskTask:
    (folder / "list.json").write_text(json.dumps(tasks))
    entries = read_tasks([str(folder / "list.json")])
    data = DataOptions(16, set(splits))
    tasks = build_tasks(entries, folder / "glue", load_tokenizer(folder / "model"), data)
    task = combine(tasks, {}, share)
    check_training(task, entries, sampling)
    return task


def test_an_error_is_measured_but_is_no_score(folder: Path) -> None:
    (ratings,) = combined(folder, [RATINGS | {"metric": "pearson"}]).members
    assert ratings.best_metric == "pearson" and "mse" in ratings.measures
    with pytest.raises(UserError, match=r"of ratings is 'mse', needed is one of pearson, spearmanr, combined_score$"):
        combined(folder, [RATINGS | {"metric": "mse"}])


def test_what_is_used_has_two_labels(folder: Path) -> None:
    assert combined(folder, ["SST-2", SORTED]).sizes == [24, 60]
    assert combined(folder, ["SST-2", SORTED], share=0.6).sizes == [24, 36]
    with pytest.raises(UserError, match=r"sorted\.csv: all 30 training examples of sorted that are used have .* 'no'"):
        combined(folder, ["SST-2", SORTED], share=0.5)


def test_uncertainty_needs_a_task_with_labels(folder: Path) -> None:
    assert combined(folder, [RATINGS, "SST-2"], sampling="uncertainty").stand_in() == 1
    with pytest.raises(UserError, match="only regressions"):
        combined(folder, [RATINGS, "STS-B"], sampling="uncertainty")


@pytest.mark.parametrize(
    ("task", "splits", "expected"),
    [
        (UNCLEAR, ["train"], 'is the text is not clear; needs "text_columns" of unclear'),
        (UNCLEAR | {"text_columns": ["first"], "label_column": "third"}, ["train"], "no column 'third'"),
        (SORTED | {"validation_file": "ratings.csv"}, ["train", "eval"], "line 2: the label is '1.5'"),
        (
            {"name": "new", "train_file": "own_none.csv"},
            ["train"],
            'the label is not clear; needs "label_column" of new',
        ),
        ({"name": "new", "validation_file": "own_dev.csv"}, ["eval"], 'needs "train_file" or "labels" of new too'),
        ({"name": "new", "validation_file": "own_dev.csv"}, ["train"], 'new has no "train_file", but train is asked'),
        ({"name": "new"}, ["predict"], 'new has no "test_file", but predict is asked'),
    ],
)
def test_messages_name_the_keys_of_a_declaration(folder: Path, task: dict, splits: list[str], expected: str) -> None:
    (folder / "own_none.csv").write_text("text,class\na,b\n")
    with pytest.raises(UserError) as error:
        combined(folder, [task], splits=tuple(splits))
    assert expected in str(error.value) and not re.search("--(?!tasks:)", str(error.value))
