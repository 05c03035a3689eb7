import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ds_bert.errors import UserError
from ds_bert.meta.tasks.published_files import (
    ListedFile,
    encode_tasks,
    files_of,
    num_classes_of,
    read_examples,
    read_file_list,
    read_listed,
)
from ds_bert.meta.tasks.task_set import TaskExamples
from ds_bert.meta.tasks.tfrecord import encode_example, frame_records

VOCAB = 100


def record(**changes: Any) -> dict[str, Any]:
    good = {"input_ids": [2, 7, 3, 0], "input_mask": [1, 1, 1, 0], "segment_ids": [0, 0, 1, 0], "label_ids": [0]}
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def write(folder: Path, records: Sequence[Mapping[str, Any]], name: str) -> Path:
    path = folder / name
    if path.suffix == ".tf_record":
        path.write_bytes(frame_records([encode_example(one) for one in records]))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


@pytest.mark.parametrize("suffix", [".tf_record", ".jsonl"])
def test_tasks_are_written_and_read_back(tmp_path: Path, suffix: str) -> None:
    sequences = [np.array([2, 50, 3]), np.array([2, 9, 3, 11, 12, 3]), np.arange(2, 10)]
    task = TaskExamples(sequences, [3, 3, 8], np.array([1, 0, 1]), 2, 2, "")
    path = tmp_path / f"meta_2{suffix}"
    path.write_bytes(encode_tasks([task], suffix, 8, 0) + encode_tasks([task], suffix, 8, 0))
    found = read_examples(path, 2, VOCAB, cache_dir=tmp_path / "cache")
    assert found.columns["labels"].tolist() == [1, 0, 1] * 2 and found.first_segments.tolist() == [3, 3, 8] * 2
    assert [found.tokens[a:b].tolist() for a, b in zip(found.starts, found.starts[1:], strict=False)] == [
        ids.tolist() for ids in sequences
    ] * 2
    assert not found.tokens.flags.owndata and not found.tokens.flags.writeable


@pytest.mark.parametrize("name", ["a_2.tf_record", "a_2.json", "a_2.jsonl"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_ids": [2]}, r"record 2: label 2, but a file of 2 classes has labels from 0 to 1"),
        ({"label_ids": [-1]}, "record 2: label -1"),
        ({"label_ids": None}, "record 2: .*no label_ids"),
        ({"input_mask": None}, "record 2: .*no input_mask"),
        ({"label_ids": [0, 1]}, "record 2: .* 2 label_ids"),
        ({"input_mask": [1, 1, 1]}, "record 2: 4 input_ids, 3 input_mask"),
        ({"input_mask": [1, 0, 1, 0]}, "record 2: input_mask is not ones"),
        ({"input_mask": [0, 0, 0, 0]}, "record 2: input_mask is not ones"),
        ({"segment_ids": [0, 1, 0, 0]}, "record 2: segment_ids are not"),
        ({"input_ids": [2, VOCAB, 3, 0]}, "record 2: token id 100, but the model's vocabulary has 100"),
        ({"input_ids": [2, 2**40, 3, 0]}, "record 2: token id"),
    ],
)
def test_wrong_records_are_named(tmp_path: Path, name: str, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, [record(), record(**changes), record(label_ids=[1])], name)
    with pytest.raises(UserError, match=f"a_2.*: {message}"):
        read_examples(path, 2, VOCAB)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not JSON"), ("3", "a JSON int"), ('{"label_ids": "x"}', "no input_ids")],
)
def test_lines_that_are_no_records_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a_2.jsonl"
    path.write_text(json.dumps(record()) + "\n" + content + "\n")
    with pytest.raises(UserError, match=f"a_2.jsonl: record 2: .*{message}"):
        read_examples(path, 2, VOCAB)
    wrong = write(tmp_path, [record(input_ids=[1, "x", 2, 0])], "b_2.json")
    with pytest.raises(UserError, match="record 1: input_ids is no list of whole numbers"):
        read_examples(wrong, 2, VOCAB)


def test_a_record_that_is_no_example_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a_2.tf_record"
    path.write_bytes(frame_records([encode_example(record()), b"nonsense"]))
    with pytest.raises(UserError, match=r"a_2.tf_record: record 2: no tf.train.Example"):
        read_examples(path, 2, VOCAB)


@pytest.mark.parametrize("name", ["a_3.tf_record", "a_3.json", "a_3.jsonl"])
def test_a_class_without_examples_and_empty_files_are_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, [record(), record(label_ids=[1])], name)
    with pytest.raises(UserError, match="no example of class 2, but needs some of each of 3"):
        read_examples(path, num_classes_of(path), VOCAB)
    with pytest.raises(UserError, match="is empty; needs examples of 3 classes"):
        read_examples(write(tmp_path, [], name), 3, VOCAB)


def test_n_is_read_from_the_name() -> None:
    assert num_classes_of(Path("data/meta_pretraining_32_4.tf_record")) == 4
    assert num_classes_of(Path("mrpc_train_12.jsonl")) == 12
    for name in ("mrpc_train.tf_record", "x_1.json", "x_.json", "5.json"):
        with pytest.raises(UserError, match="needs to end in _N"):
            num_classes_of(Path(name))


def test_a_list_names_files(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, [record(), record(label_ids=[1])], "a_2.json")
    listed = tmp_path / "data.json"
    listed.write_text(json.dumps({"elsewhere/data/a_2.json": 5}))
    files = read_file_list(listed)
    assert files == [ListedFile(path, 5)] == read_file_list(listed, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert len(read_listed(files[0], VOCAB)) == 2
    assert "holds 2 records, its list says 5" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert len(read_listed(files_of(path)[0], VOCAB)) == 2
    assert not caplog.text  # a file in no list holds what it holds
    monkeypatch.chdir(tmp_path)
    listed.write_text(json.dumps({"a_2.json": 2}))
    assert read_file_list(listed, tmp_path / "nowhere") == [ListedFile(Path("a_2.json"), 2)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no JSON object"),
        ("{}", "holds no JSON object"),
        ('{"a_2.json": "many"}', "'a_2.json' has 'many' as its number"),
        ('{"a_2.json": 0}', "'a_2.json' has 0 as its number"),
        ('{"gone_2.json": 3}', "'gone_2.json' is no file"),
    ],
)
def test_wrong_lists_are_refused(tmp_path: Path, content: str, message: str) -> None:
    listed = tmp_path / "data.json"
    listed.write_text(content)
    with pytest.raises(UserError, match=rf"data\.json: {message}"):
        read_file_list(listed)
