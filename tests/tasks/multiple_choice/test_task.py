import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.tasks.task import Task
from tests.support.benchmarks import multiple_choice

LINE = {"context": "ba ca.", "question": "da?", "options": ["fa", "ga"], "label": 1}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    path = tmp_path / "vocab.txt"
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path.write_text("\n".join([*specials, *(f"{a}{b}" for a in "bcdfghklmnprst" for b in "aeiou" + "vwxyz")]))
    return load_tokenizer(path)


def own(folder: Path, name: str, *changes: dict[str, Any]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(json.dumps(LINE | change) for change in changes))
    return path


def race(folder: Path, split: str, level: str, answers: list[str]) -> None:
    path = folder / split / level / "1.txt"
    path.parent.mkdir(parents=True)
    count = len(answers)
    article = {"article": "ba", "id": f"{level}1.txt", "questions": ["ca _"] * count, "answers": answers}
    path.write_text(json.dumps(article | {"options": [["da", "fa", "ga", "ha"]] * count}))


def logits(*rows: list[float]) -> list[dict[str, np.ndarray]]:
    return [{"logits": np.array(row, dtype=np.float32)} for row in rows]


def race_task(folder: Path, tokenizer: Tokenizer, **options: Any) -> Task:
    return multiple_choice("RACE", folder, tokenizer, max_seq_length=32, max_qa_length=16, **options)


def test_race_is_measured_by_level_and_predicted_in_letters(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for split, answers in (("train", ["A"]), ("dev", ["A", "B"]), ("test", ["D"])):
        race(tmp_path, split, "high", answers)
        race(tmp_path, split, "middle", answers)
    task = race_task(tmp_path, tokenizer, splits=("train", "eval", "predict"))
    assert (task.head, task.config, task.best_metric) == ("multiple-choice", {"num_choices": 4}, "accuracy")
    assert task.train is not None and len(task.train) == 2

    validation = task.evaluation["validation"]
    outputs = logits([1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 2], [0, 0, 2, 0])
    assert validation.measure is not None
    assert validation.measure(outputs) == {"accuracy": 0.25, "accuracy_high": 0.5, "accuracy_middle": 0.0}
    assert validation.examples.batch(0, np.arange(4))["labels"].tolist() == [0, 1, 0, 1]

    test = task.prediction["test"]
    assert test.measure is not None and test.write is not None
    outputs = logits([0, 0, 3, 0], [0, 0, 0, 3])
    assert test.measure(outputs)["accuracy_middle"] == 1.0
    paths = test.write(outputs, tmp_path)
    assert paths == [tmp_path / "predictions.json"]
    assert json.loads(paths[0].read_text()) == {"high1.txt-0": "C", "middle1.txt-0": "D"}


@pytest.mark.parametrize(("flag", "group"), [("high_only", "high"), ("middle_only", "middle")])
def test_one_level_of_race(tmp_path: Path, tokenizer: Tokenizer, flag: str, group: str) -> None:
    race(tmp_path, "dev", group, ["A"])
    task = race_task(tmp_path, tokenizer, splits=("eval",), **{flag: True})
    measure = task.evaluation["validation"].measure
    assert task.train is None and measure is not None
    assert measure(logits([1, 0, 0, 0])) == {"accuracy": 1.0, f"accuracy_{group}": 1.0}


def test_own_files_without_labels_are_predicted_as_numbers(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({key: value for key, value in LINE.items() if key != "label"}))
    task = multiple_choice(None, None, tokenizer, splits=("predict",), test_file=path)
    test = task.prediction["test"]
    assert test.measure is None and test.write is not None
    assert json.loads(test.write(logits([0, 1]), tmp_path)[0].read_text()) == {"1": 1}


def test_first_samples_only(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = own(tmp_path, "train", {"label": 0}, {"label": 1}, {"label": 0})
    task = multiple_choice("custom", None, tokenizer, splits=("train",), train_file=path, max_train_samples=2)
    assert task.train is not None
    assert task.train.batch(0, np.arange(len(task.train)))["labels"].tolist() == [0, 1]


def test_the_cache_gives_the_same_and_follows_every_option(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path, cache = own(tmp_path, "train", {}, {"context": "ba " * 50}), tmp_path / "cache"

    def batch(**options: Any) -> dict[str, np.ndarray]:
        task = multiple_choice(None, None, tokenizer, splits=("train",), train_file=path, cache_dir=cache, **options)
        assert task.train is not None
        return task.train.batch(0, np.arange(2))

    first, again = batch(), batch()
    assert len(list(cache.glob("[0-9a-f]*"))) == 1
    assert all(np.array_equal(first[name], again[name]) for name in first)
    others = [batch(max_seq_length=20, max_qa_length=8), batch(max_qa_length=1), batch(without_context=True)]
    assert len(list(cache.glob("[0-9a-f]*"))) == 4
    assert [other["input_ids"].shape[1] for other in others] == [24, 56, 8]


def test_the_fingerprint_follows_the_training_data(tmp_path: Path, tokenizer: Tokenizer) -> None:
    def of(*changes: dict[str, Any], **options: Any) -> str:
        path = own(tmp_path, "train", *changes)
        return multiple_choice(None, None, tokenizer, splits=("train",), train_file=path, **options).fingerprint

    prints = [of({}), of({"label": 0}), of({}, {}), of({}, max_seq_length=200), of({}, without_context=True)]
    assert len(set(prints)) == 5 and of({}) == prints[0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("RACE", {"high_only": True, "middle_only": True}, "--high_only and --middle_only exclude each other"),
        ("DREAM", {"high_only": True}, "--high_only is for --task_name RACE, but the task is DREAM"),
        (None, {"middle_only": True}, "--middle_only is for --task_name RACE"),
        ("SWAG", {}, "--task_name SWAG: there are RACE and DREAM"),
        ("RACE", {}, "--data_dir is missing: RACE needs"),
        ("DREAM", {"train_file": Path("a")}, "--train_file is for own files, but --task_name is DREAM"),
        (None, {}, "--train_file is missing"),
        (None, {"max_seq_length": 100}, "--max_seq_length 100 leaves no room"),
    ],
)
def test_wrong_options_are_refused(tokenizer: Tokenizer, name: str | None, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        multiple_choice(name, None, tokenizer, **options)


def test_splits_need_the_same_number_of_options(tmp_path: Path, tokenizer: Tokenizer) -> None:
    files = {
        "train_file": own(tmp_path, "train", {}),
        "validation_file": own(tmp_path, "dev", {"options": ["fa", "ga", "ha"]}),
    }
    with pytest.raises(UserError, match=r"different numbers of options \(2 to train, 3 to eval\)"):
        multiple_choice(None, None, tokenizer, **files)  # type: ignore[arg-type]
