"""Tasks that the model cannot learn from are refused before training; what a run reads is told from what it is."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.errors import UserError
from ds_bert.meta.arguments import FewShotArguments, MetaTrainArguments
from ds_bert.meta.few_shot_data import open_few_shot
from ds_bert.meta.tasks.episode import EpisodeSource
from ds_bert.meta.training_tasks import open_tasks
from tests.support.model_folder import write_vocabulary
from tests.support.task_folder import write_tasks

POSITIONS = 20


@pytest.fixture
def model(tmp_path: Path) -> Any:
    write_vocabulary(tmp_path / "model", ["film"])
    return SimpleNamespace(
        tokenizer=load_tokenizer(tmp_path / "model"),
        fields={"max_position_embeddings": POSITIONS, "type_vocab_size": 2},
    )


def write_records(path: Path, labels: Sequence[int], length: int = 4, pair: int = 0) -> Path:
    """Examples of three tokens; the last is longer, and its last ``pair`` tokens are of a second text."""
    lengths = [3] * (len(labels) - 1) + [length]
    firsts = [3] * (len(labels) - 1) + [length - pair]
    records = [
        {"input_ids": [2, *range(10, 8 + size), 3], "input_mask": [1] * size, "label_ids": [label],
         "segment_ids": [0] * first + [1] * (size - first)}
        for label, size, first in zip(labels, lengths, firsts, strict=True)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def opened(model: Any, *files: Path, **settings: Any) -> tuple[EpisodeSource, str]:
    sizes = {"train_batch_size": 6, "meta_batchsz": 4, "num_batches": 2, "cache_dir": str(files[0].parent / "cache")}
    arguments = MetaTrainArguments(task_train_files=[str(file) for file in files], **(sizes | settings))
    return open_tasks(arguments, model)


@pytest.mark.parametrize(
    ("labels", "length", "settings", "message"),
    [
        ([0, 1] * 3 + [0, 0, 0, 0, 1, 1], 3, {}, "task 1: none of its 4 support examples is of class 1"),
        ([0, 1] * 6, 17, {"max_seq_length": 16}, "task 1: a sequence has 17 tokens, but --max_seq_length is 16"),
        ([0, 1] * 6, 21, {}, "task 1: a sequence has 21 tokens, but the model has 20 positions"),
        ([0, 1] * 6, 3, {"num_batches": 4}, "task 0: 4 support examples in --num_batches 4; the first batch"),
    ],
)
def test_any_task_of_a_file_is_looked_at(
    model: Any, tmp_path: Path, labels: list[int], length: int, settings: dict[str, Any], message: str
) -> None:
    good, bad = write_records(tmp_path / "good_2.jsonl", [0, 1] * 6), tmp_path / "bad_2.jsonl"
    write_records(bad, labels, length)
    opened(model, good)
    with pytest.raises(UserError, match=rf"(bad|good)_2\.jsonl: {message}"):
        opened(model, good, bad, **settings)


def test_any_task_of_a_folder_is_looked_at(model: Any, tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "tasks", tmp_path / "model", support=12)  # by turns of 2 and 3 classes
    opened(model, folder, num_batches=4)
    for seed in range(4):  # whichever task comes first
        with pytest.raises(UserError, match=r"tasks: task 1: 12 support examples in --num_batches 6; .* the 3 classes"):
            opened(model, folder, num_batches=6, seed=seed)


def test_data_is_told_by_what_a_list_names(model: Any, tmp_path: Path) -> None:
    listed, folder = tmp_path / "data.json", tmp_path / "elsewhere"
    folder.mkdir()
    write_records(tmp_path / "own_2.jsonl", [0, 1] * 6)
    write_records(folder / "own_2.jsonl", [0, 1] * 9)
    write_tasks(tmp_path / "tasks", tmp_path / "model")
    listed.write_text(json.dumps({"own_2.jsonl": 12, str(tmp_path / "tasks"): 24}))
    before, there = opened(model, listed)[1], opened(model, listed, data_dir=str(folder))[1]
    assert before == opened(model, tmp_path / "own_2.jsonl", tmp_path / "tasks")[1] != there
    write_records(tmp_path / "own_2.jsonl", [1, 0] * 6)
    changed = opened(model, listed)[1]
    write_tasks(tmp_path / "tasks", tmp_path / "model", seed=1)
    assert len({before, changed, opened(model, listed)[1]}) == 3


@pytest.mark.parametrize(
    ("pair", "kept", "first"), [(0, [2, *range(10, 16), 3], 8), (6, [2, 10, 11, 12, 3, 17, 18, 3], 5)]
)
def test_few_shot_learning_cuts_long_examples(
    model: Any, tmp_path: Path, pair: int, kept: list[int], first: int
) -> None:
    files = [write_records(tmp_path / f"{name}_2.jsonl", [0, 1] * 2, 14, pair) for name in ("support", "test")]
    arguments = FewShotArguments(
        support_file=str(files[0]), test_file=str(files[1]), k=[2], max_seq_length=8, max_test_samples=0
    )
    (episode,) = open_few_shot(
        arguments, model.tokenizer, {"vocab_size": model.tokenizer.size, "type_vocab_size": 2}
    ).episodes.values()
    for part in (episode.support, episode.query):
        assert part.lengths.tolist() == [3, 3, 3, 8] and part.columns["labels"].tolist() == [0, 1, 0, 1]
        assert part.tokens[-8:].tolist() == kept and part.first_segments.tolist() == [3, 3, 3, first]


@pytest.mark.parametrize("given", [0, 3])
def test_the_classes_of_a_support_file_are_those_it_has_not_what_ends_its_name(
    model: Any, tmp_path: Path, given: int
) -> None:
    """Names of few-shot files end in k: there are three classes here."""
    support = write_records(tmp_path / "airline_train_0_4.jsonl", [0, 1, 2] * 4)
    test = write_records(tmp_path / "airline_eval.jsonl", [0, 1, 2] * 2)
    fields = {"vocab_size": model.tokenizer.size, "type_vocab_size": 2}
    arguments = FewShotArguments(support_file=str(support), test_file=str(test), k=[4], num_labels=given)
    (episode,) = open_few_shot(arguments, model.tokenizer, fields).episodes.values()
    assert episode.num_classes == 3
    write_records(support, [0] * 4)
    arguments = replace(arguments, num_labels=0)
    with pytest.raises(
        UserError, match=r"airline_train_0_4\.jsonl: all its examples are of class 0; needs examples of"
    ):
        open_few_shot(arguments, model.tokenizer, fields)
    support.write_text("")
    with pytest.raises(UserError, match=r"airline_train_0_4\.jsonl: is empty; needs examples of two classes"):
        open_few_shot(arguments, model.tokenizer, fields)


@pytest.mark.parametrize("pair", [0, 6])
def test_a_model_with_one_token_type_takes_single_texts_alone(model: Any, tmp_path: Path, pair: int) -> None:
    model.fields = {**model.fields, "type_vocab_size": 1, "vocab_size": model.tokenizer.size}
    files = [write_records(tmp_path / f"{name}_2.jsonl", [0, 1] * 3, 14, pair) for name in ("support", "test")]
    few = FewShotArguments(support_file=str(files[0]), test_file=str(files[1]), k=[3], max_seq_length=16)
    for make in (lambda: opened(model, files[0]), lambda: open_few_shot(few, model.tokenizer, model.fields)):
        if pair:
            with pytest.raises(
                UserError, match=r"support_2\.jsonl.*: has pairs.* type_vocab_size is 1; needed is a model"
            ):
                make()
        else:
            make()
