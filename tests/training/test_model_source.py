"""The model and the tokenizer that fine-tuning starts from: they belong together, and to the job."""

import json
from pathlib import Path
from typing import Any

import pytest

from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.errors import UserError
from ds_bert.meta.arguments import MetaTrainArguments
from ds_bert.multitask.arguments import MultitaskArguments
from ds_bert.training.job_arguments import FinetuneArguments, PretrainArguments
from ds_bert.training.pretraining import load_model
from ds_bert.training.starting_model import load_starting_model
from tests.support.model_folder import write_bert_folder, write_vocabulary

WORDS = ["river", "tower", "north"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_bert_folder(tmp_path / "model", WORDS)


def arguments(model: Path, kind: type[Any] = FinetuneArguments, **more: Any) -> Any:
    return kind(model_name_or_path=str(model), max_seq_length=16, **more)


def test_another_tokenizer_than_the_models_is_refused(model: Path, tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "other", [*WORDS[1:], WORDS[0]])  # as many tokens, in another order
    with pytest.raises(
        UserError, match=rf"{tmp_path}/other: .* in {model} \(token \d+ is 'tower' there, 'river' in the"
    ):
        load_starting_model(arguments(model, tokenizer_name=str(tmp_path / "other")))


def test_the_same_tokenizer_may_have_another_format(model: Path, tmp_path: Path) -> None:
    own = load_tokenizer(model)
    own.save(tmp_path / "saved")
    named = load_starting_model(arguments(model, tokenizer_name=str(tmp_path / "saved" / "tokenizer.json"))).tokenizer
    assert named.fingerprint == own.fingerprint
    (model / "vocab.txt").unlink()  # a model without a tokenizer of its own takes any that fits
    assert load_starting_model(arguments(model, tokenizer_name=str(tmp_path / "saved"))).tokenizer.size == own.size


def test_a_model_that_asks_for_tasks_is_for_multi_task_training_alone(model: Path) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"conditional": "base"}))
    sentence = rf"{model}: .*\"conditional\": 'base'.*pipelines/multitask\.py"
    for kind in (FinetuneArguments, MetaTrainArguments):
        with pytest.raises(UserError, match=sentence):
            load_starting_model(arguments(model, kind))
    with pytest.raises(UserError, match=sentence):
        load_model(arguments(model, PretrainArguments))
    assert (
        load_starting_model(arguments(model, MultitaskArguments), may_be_conditional=True).fields["conditional"]
        == "base"
    )
    path.write_text(json.dumps(json.loads(path.read_text()) | {"conditional": "none"}))
    load_starting_model(arguments(model))
