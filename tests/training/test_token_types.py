"""Models with one token type: transformers' BERTs that were trained on single texts. Pairs are refused in time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ds_bert.data.features import Features, make_features
from ds_bert.errors import UserError
from ds_bert.tasks.task import Split, Task
from ds_bert.training.finetuning import fine_tune
from ds_bert.training.job import Plan
from ds_bert.training.job_arguments import FinetuneArguments, PretrainArguments
from ds_bert.training.pretraining import load_model
from ds_bert.training.starting_model import StartingModel
from tests.support.checkpoints import toy_fields


def examples(pairs: bool, per_example: int = 1) -> Features:
    """Two examples; with pairs, the last sequence of the last has a second text."""
    sequences = [[2, 7, 3], [2, 8, 9, 3]] * per_example
    firsts = [3, 4] * per_example
    firsts[-1] -= 2 * pairs
    return make_features(sequences, firsts, 0, {"labels": np.arange(2)}, per_example)


@pytest.mark.parametrize("per_example", [1, 3])
def test_features_know_their_pairs(per_example: int) -> None:
    assert examples(False, per_example).has_pairs.tolist() == [False, False]
    assert examples(True, per_example).has_pairs.tolist() == [False, True]


class Reached(Exception):
    """What comes after all checks."""


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What fine-tuning says against examples before it claims a folder; "" for nothing."""

    def claim(*_: Any) -> None:
        raise Reached

    monkeypatch.setattr("ds_bert.training.job.claim_run", claim)

    def attempt(types: int, **splits: Features) -> str:
        measured = {"validation": Split(splits["validation"])} if "validation" in splits else {}
        predicted = {"test": Split(splits["test"])} if "test" in splits else {}
        task = Task("reviews", "sequence-classification", {}, None, splits.get("train"), measured, predicted)
        source = StartingModel({**toy_fields("bert"), "type_vocab_size": types}, None, None)  # type: ignore[arg-type]
        try:
            fine_tune(task, Plan(FinetuneArguments(), None, None), source)  # type: ignore[arg-type]
        except Reached:
            return ""
        except UserError as error:
            return str(error)
        raise AssertionError

    return attempt


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("per_example", [1, 3])
def test_pairs_are_refused_wherever_they_are(refused: Callable[..., str], split: str, per_example: int) -> None:
    splits = {name: examples(name == split, per_example) for name in ("train", "validation", "test")}
    needed = (
        "has pairs of texts, the second of token type 1, but the model's type_vocab_size is 1; needed is a model with 2"
    )
    assert refused(1, **splits) == f"reviews ({split}): {needed}"
    assert refused(2, **splits) == ""
    assert refused(1, **{name: examples(False, per_example) for name in splits}) == ""


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_pre_training_needs_two(tmp_path: Path, family: str) -> None:
    for types in (1, 2):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**toy_fields(family), "type_vocab_size": types}))
        arguments = PretrainArguments(config_name=str(path), max_seq_length=8, max_predictions_per_seq=2)
        if types == 2:
            load_model(arguments)
            continue
        with pytest.raises(UserError, match=r"pre-training: has pairs of texts.*type_vocab_size is 1"):
            load_model(arguments)
