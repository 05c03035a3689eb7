import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ds_bert.data.features import Features
from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.meta.tasks.leopard import LeopardTask
from ds_bert.meta.tasks.published_files import encode_tasks
from ds_bert.meta.tasks.task_set import TaskExamples

DATA = os.environ.get("DS_BERT_DATA")


@pytest.fixture
def tokenizer(vocabulary_file: Path) -> Tokenizer:
    return load_tokenizer(vocabulary_file)


def rows(*labels: str, text: str = "ba be") -> list[dict[str, Any]]:
    return [{"sentence1": f"{text} bo", "label": label, "processed_sent": "[CLS]"} for label in labels]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Task "t_c" in a folder of another name: k = 1 and 2, splits 0 and 1."""
    folder = tmp_path / "t"
    folder.mkdir()
    for split in (0, 1):
        for k in (1, 2):
            write(folder, f"t_c_train_{split}_{k}", rows(*["no", "yes", "maybe"] * k))
    write(folder, "t_c_eval", rows(*["yes", "no"] * 20))
    return folder


def write(folder: Path, name: str, content: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_a_task_is_read(folder: Path, tokenizer: Tokenizer) -> None:
    task = LeopardTask.open(folder)
    assert (task.name, task.labels, task.texts) == ("t_c", ("maybe", "no", "yes"), ("sentence1",))
    assert task.usable_splits(2) == ([0, 1], [])
    support = task.support(1, 2, tokenizer, 16)
    assert support.columns["labels"].tolist() == [1, 2, 0] * 2
    expected = [tokenizer.cls_id, *tokenizer.encode(["ba be bo"])[0].tolist(), tokenizer.sep_id]
    assert support.tokens[: support.starts[1]].tolist() == expected
    evaluation = task.evaluation(tokenizer, 16)
    assert evaluation.columns["labels"].tolist() == [2, 1] * 20


def test_pairs_have_two_segments(folder: Path, tokenizer: Tokenizer) -> None:
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps([{**row, "sentence2": "da"} for row in content]))
    task = LeopardTask.open(folder)
    assert task.texts == ("sentence1", "sentence2")
    support = task.support(0, 1, tokenizer, 16)
    assert support.first_segments.tolist() == [5, 5, 5] and support.lengths.tolist() == [7, 7, 7]


def test_a_part_of_the_test_examples_is_drawn_from_all(folder: Path, tokenizer: Tokenizer) -> None:
    write(folder, "t_c_eval", rows(*["yes"] * 300 + ["no"] * 300))
    task = LeopardTask.open(folder)
    parts = [task.evaluation(tokenizer, 16, limit=100).columns["labels"] for _ in range(2)]
    assert len(parts[0]) == 100 and np.array_equal(*parts) and 30 < (parts[0] == 1).sum() < 70
    assert len(task.evaluation(tokenizer, 16, limit=1000)) == 600


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is an empty list; needs 2 examples of each of 3 classes"),
        (rows("no", "yes", "no", "yes"), "0 examples of class 'maybe', its name says 2 of each"),
        (rows(*["no", "yes", "maybe"] * 3), "3 examples of class 'maybe', its name says 2"),
    ],
)
def test_a_broken_support_set_is_left_out_or_refused(
    folder: Path, tokenizer: Tokenizer, content: list[dict[str, Any]], message: str
) -> None:
    write(folder, "t_c_train_0_2", content)
    task = LeopardTask.open(folder)
    usable, reasons = task.usable_splits(2)
    assert usable == [1] and len(reasons) == 1 and message in reasons[0]
    with pytest.raises(UserError, match=rf"t_c_train_0_2\.json: {message}"):
        task.support(0, 2, tokenizer, 16)
    write(folder, "t_c_train_1_2", [])
    with pytest.raises(UserError, match=rf"t_c_train_0_2\.json: {message}"):
        LeopardTask.open(folder).usable_splits(2)


def test_absent_files_are_named(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = LeopardTask.open(folder)
    with pytest.raises(UserError, match=r"t: no files with k = 3; there are: 1, 2"):
        task.usable_splits(3)
    with pytest.raises(UserError, match=r"t_c_train_7_2\.json: no such file"):
        task.support(7, 2, tokenizer, 16)
    write(folder, "t_c_eval", rows("yes", "no", "no"))
    with pytest.raises(UserError, match=r"t_c_eval\.json: 3 examples; needs at least 30"):
        task.evaluation(tokenizer, 16)
    assert len(task.evaluation(tokenizer, 16, fewest=1)) == 3
    (folder / "t_c_eval.json").unlink()
    with pytest.raises(UserError, match=r"t_c_eval\.json: no such file"):
        LeopardTask.open(folder).evaluation(tokenizer, 16)
    with pytest.raises(UserError, match="no such folder"):
        LeopardTask.open(tmp_path / "gone")
    with pytest.raises(UserError, match="holds no <task>_train"):
        LeopardTask.open(tmp_path)
    write(folder, "other_train_0_4", rows("a"))
    with pytest.raises(UserError, match="holds files of other, t_c"):
        LeopardTask.open(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds a JSON dict"),
        ([3], "example 1: no text under 'sentence1'"),
        ([{"sentence1": "a", "label": 4}], "example 1: no text under 'label'"),
    ],
)
def test_files_of_another_form_are_refused(folder: Path, content: Any, message: str) -> None:
    write(folder, "t_c_train_0_2", content)
    with pytest.raises(UserError, match=rf"t_c_train_0_2\.json: {message}"):
        LeopardTask.open(folder)


def encoded(path: Path, task: LeopardTask, examples: Features, length: int = 12) -> None:
    """Write a file of `LeopardTask`'s examples as the published TFRecords have them, padded."""
    of_task = [
        TaskExamples([examples.tokens[begin:end]], [int(first)], np.array([label]), 1, len(task.labels), task.name)
        for begin, end, first, label in zip(
            examples.starts, examples.starts[1:], examples.first_segments, examples.columns["labels"], strict=False
        )
    ]
    path.write_bytes(encode_tasks(of_task, ".tf_record", length, examples.pad_id))


@pytest.mark.parametrize("is_pair", [False, True])
def test_encoded_files_give_what_their_texts_give(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, is_pair: bool
) -> None:
    """Also where they are cut."""
    write(folder, "t_c_eval", rows(*["yes", "no"] * 20, text="ba be bi bo ba be bi"))
    if is_pair:
        for path in folder.glob("*.json"):
            path.write_text(json.dumps([{**row, "sentence2": "da"} for row in json.loads(path.read_text())]))
    texts, other = LeopardTask.open(folder), tmp_path / "records"
    other.mkdir()
    for split in (0, 1):
        for k in (1, 2):
            support = texts.support(split, k, tokenizer, 12)
            encoded(other / f"t_c_train_{split}_{k}.tf_record", texts, support)
    encoded(other / "t_c_eval.tf_record", texts, texts.evaluation(tokenizer, 12))
    task = LeopardTask.open(other)
    assert (task.name, task.labels, task.splits) == (texts.name, ("0", "1", "2"), texts.splits)
    assert task.usable_splits(2) == ([0, 1], [])
    for length in (8, 12):
        for found, expected in (
            (task.support(1, 2, tokenizer, length), texts.support(1, 2, tokenizer, length)),
            (task.evaluation(tokenizer, length), texts.evaluation(tokenizer, length)),
            (task.evaluation(tokenizer, length, limit=10), texts.evaluation(tokenizer, length, limit=10)),
        ):
            assert found.tokens.tolist() == expected.tokens.tolist()
            assert found.starts.tolist() == expected.starts.tolist()
            assert found.first_segments.tolist() == expected.first_segments.tolist()
            assert found.columns["labels"].tolist() == expected.columns["labels"].tolist()


def test_encoded_files_that_cannot_be_used_are_named(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts, other = LeopardTask.open(folder), tmp_path / "records"
    other.mkdir()
    encoded(other / "t_train_0_2.tf_record", texts, texts.support(0, 2, tokenizer, 12))
    encoded(other / "t_train_1_2.tf_record", texts, texts.support(0, 1, tokenizer, 12))
    task = LeopardTask.open(other)
    usable, reasons = task.usable_splits(2)
    assert usable == [0] and "t_train_1_2.tf_record: 1 examples of class '0', its name says 2" in reasons[0]
    with pytest.raises(UserError, match=r"t_eval\.tf_record: no such file"):
        task.evaluation(tokenizer, 12)
    (other / "t_train_1_2.tf_record").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"t_train_1_2\.tf_record: record 1"):
        LeopardTask.open(other)
    write(other, "t_train_2_2", rows("no", "yes"))
    with pytest.raises(UserError, match=r"records: holds \.json and \.tf_record files; needs one form"):
        LeopardTask.open(other)


@pytest.mark.skipif(not DATA, reason="needs DS_BERT_DATA, the folder of real data")
def test_the_published_files() -> None:
    tokenizer = load_tokenizer(f"{DATA}/vocab/bert-base-uncased")
    folders = sorted(Path(f"{DATA}/leopard/json").iterdir())
    left_out, without_test = [], []
    for folder in folders:
        task = LeopardTask.open(folder)
        for k in (4, 8, 16):
            usable, reasons = task.usable_splits(k)
            left_out += reasons
            support = task.support(usable[0], k, tokenizer, 64)
            assert np.bincount(support.columns["labels"]).tolist() == [k] * len(task.labels)
        try:
            assert len(task.evaluation(tokenizer, 64, limit=40)) == 40
        except UserError as error:
            without_test.append(str(error))
    assert len(folders) == 17 and len(left_out) == 1 and "disaster_train_0_16.json: is an empty list" in left_out[0]
    names = [Path(message.split(":")[0]).stem for message in without_test]
    assert names == [
        f"{name}_eval"
        for name in ("emotion", "rating_dvd", "rating_electronics", "rating_kitchen", "sentiment_electronics")
    ]
    assert "3 examples; needs at least 30" in without_test[-1]
