"""A trained head is understood by its labels' names: whatever their order, it is measured and written right."""

import json
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.multitask.task_list import read_tasks
from ds_bert.multitask.tasks import build_tasks, combine
from ds_bert.tasks.task import DataOptions, Task
from tests.support.benchmarks import glue
from tests.support.model_folder import write_vocabulary

STYLES = {"as they are": str, "upper": str.upper, "capitalised": str.capitalize}
PAIR = ["sentence1", "sentence2"]
OFFICIAL = {  # name: texts, label column, labels by what trained models call them
    "SNLI": (PAIR, "gold_label", {name: name for name in ("entailment", "neutral", "contradiction")}),
    "RTE": (PAIR, "label", {name: name for name in ("entailment", "not_entailment")}),
    "SST-2": (["sentence"], "label", {"0": "negative", "1": "positive"}),
    "MRPC": (["#1 String", "#2 String"], "Quality", {"0": "not_equivalent", "1": "equivalent"}),
}
SPLITS = ("train", "eval", "predict")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("vocabulary")
    write_vocabulary(folder, ["film"])
    return load_tokenizer(folder)


def golds(labels: Sequence[str]) -> list[str]:
    """Labels of nine examples, not equally many of each."""
    return [labels[min(number % 4, len(labels) - 1)] for number in range(9)]


def write_official(folder: Path, name: str) -> None:
    texts, label, labels = OFFICIAL[name]
    (folder / name).mkdir(exist_ok=True)
    rows = [[*(["film"] * len(texts)), gold] for gold in golds(list(labels))]
    for split in ("train", "dev"):
        lines = [[*texts, label], *rows]
        (folder / name / f"{split}.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    index = [["index", *texts], *([str(number), *row[:-1]] for number, row in enumerate(rows))]
    (folder / name / "test.tsv").write_text("".join("\t".join(line) + "\n" for line in index))


def write_own(folder: Path, labels: Sequence[str], kind: str) -> dict[str, Path]:
    """Texts and labels in a file of this kind, for all splits."""
    path = folder / f"own.{kind}"
    rows = [("film", gold) for gold in golds(labels)]
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"text": text, "label": gold}) + "\n" for text, gold in rows))
    else:
        separator = "," if kind == "csv" else "\t"
        path.write_text("".join(separator.join(row) + "\n" for row in [("text", "label"), *rows]))
    return {"train_file": path, "validation_file": path, "test_file": path}


def check(task: Task, head: Sequence[str], labels: dict[str, str], folder: Path) -> None:
    """Let a head say of each example what is right but for the last; compare measures, files and configuration.

    Args:
        task: built for this head.
        head: its labels, in the order of its rows.
        labels: the task's own, by what the head calls them in small letters.
        folder: where files go.
    """
    own = [labels[name.lower()] for name in head]
    assert list(task.config["id2label"].values()) == own
    assert task.config["label2id"] == {name: row for row, name in enumerate(own)}
    right = golds(list(labels.values()))
    said = [*right[:-1], next(name for name in own if name != right[-1])]
    outputs = [{"logits": np.eye(len(own), dtype=np.float32)[own.index(name)]} for name in said]
    assert task.train is not None
    assert [own[row] for row in task.train.batch(0, np.arange(9))["labels"]] == right
    (validation,), (test,) = task.evaluation.values(), task.prediction.values()
    assert validation.measure is not None and test.write is not None
    measures = validation.measure(outputs)
    assert measures["accuracy"] == pytest.approx(8 / 9)
    if "combined_score" in measures:
        hits = sum(a == b == "1" for a, b in zip(said, right, strict=True))
        assert measures["f1"] == pytest.approx(2 * hits / (said.count("1") + right.count("1")))
    (path,) = test.write(outputs, folder)
    assert path.read_text().splitlines() == ["index\tprediction", *(f"{n}\t{name}" for n, name in enumerate(said))]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_tasks(tmp_path: Path, tokenizer: Tokenizer, name: str, style: str) -> None:
    write_official(tmp_path, name)
    names = {called: own for own, called in OFFICIAL[name][2].items()}
    for order in permutations(names):
        head = [STYLES[style](called) for called in order]
        task = glue(name, tmp_path, tokenizer, 16, splits=SPLITS, label_names=head)
        check(task, head, names, tmp_path / "out")
        note, *_ = task.notes
        assert note.startswith(f"labels: {len(head)} classes: ") and note.endswith("the order of the model's head")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("labels", [("contradiction", "entailment", "neutral"), ("0", "1"), ("1", "2", "10")], ids=str)
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_own_texts(tmp_path: Path, tokenizer: Tokenizer, kind: str, labels: tuple[str, ...], style: str) -> None:
    files = write_own(tmp_path, labels, kind)
    for order in permutations(labels):
        head = [STYLES[style](name) for name in order]
        task = glue(None, None, tokenizer, 16, splits=SPLITS, label_names=head, **files)
        check(task, head, {name: name for name in labels}, tmp_path)
        only = glue(None, None, tokenizer, 16, splits=["eval"], label_names=head, validation_file=files["test_file"])
        assert only.config == task.config and only.evaluation["validation"].measure is not None


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("declared", [None, ["spam", "ham", "none"]])
def test_many_tasks(tmp_path: Path, tokenizer: Tokenizer, style: str, declared: list[str] | None) -> None:
    """Decoders of a model of many tasks; the user's own task with its labels found or declared."""
    write_official(tmp_path, "SNLI")
    labels = ["ham", "none", "spam"]
    own = {"name": "mail", **{key: path.name for key, path in write_own(tmp_path, labels, "csv").items()}}
    (tmp_path / "list.json").write_text(json.dumps(["SNLI", own | ({"labels": declared} if declared else {})]))
    entries, options = read_tasks([str(tmp_path / "list.json")]), DataOptions(16, set(SPLITS))
    for order in permutations(range(3)):
        heads = {
            "snli": [STYLES[style](list(OFFICIAL["SNLI"][2])[place]) for place in order],
            "mail": [STYLES[style](labels[place]) for place in order],
        }
        tasks = build_tasks(entries, tmp_path, tokenizer, options, heads)
        check(tasks[0], heads["snli"], OFFICIAL["SNLI"][2], tmp_path)
        check(tasks[1], heads["mail"], {name: name for name in labels}, tmp_path)
        described = combine(tasks, {}).config["tasks"]
        assert [[name.lower() for name in task["labels"]] for task in described] == [
            [name.lower() for name in head] for head in heads.values()
        ]
        assert list(dict.fromkeys(note.partition(":")[0] for note in combine(tasks, {}).notes)) == ["snli", "mail"]
    with pytest.raises(UserError, match=r"the model's labels are ham, spam, but .*--drop_classifier"):
        build_tasks(entries, tmp_path, tokenizer, options, {"mail": ["ham", "spam"]})


def test_a_head_of_numbers_stays_one(tmp_path: Path, tokenizer: Tokenizer) -> None:
    files = write_own(tmp_path, ("1", "2", "3"), "csv")
    task = glue(None, None, tokenizer, 16, splits=["train"], label_names=["LABEL_0"], **files)
    assert task.config["problem_type"] == "regression" and task.notes[0] == "labels: numbers from 1 to 3: a regression"
    words = write_own(tmp_path, ("bad", "good"), "tsv")
    with pytest.raises(UserError, match=r"line 2: the label is 'bad'; needs a number, as this is a regression"):
        glue(None, None, tokenizer, 16, splits=["train"], label_names=["LABEL_0"], **words)


def test_names_that_say_nothing_are_announced(tmp_path: Path, tokenizer: Tokenizer) -> None:
    files = write_own(tmp_path, ("bad", "good"), "csv")
    numbered = ["LABEL_0", "LABEL_1"]
    task = glue(None, None, tokenizer, 16, splits=["train"], label_names=numbered, **files)
    assert task.config["id2label"] == {0: "bad", 1: "good"}
    assert task.notes == (
        "labels: 2 classes: 'bad', 'good'; the model's head is taken to have this order, as its own names (LABEL_0, …) "
        "say nothing",
        "columns: 'text' is the text, 'label' the label",
    )
    with pytest.raises(UserError, match="not known without training examples; needs --train_file too"):
        glue(None, None, tokenizer, 16, splits=["eval"], label_names=numbered, validation_file=files["test_file"])
