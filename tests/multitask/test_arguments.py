"""Short forms, published names, freezing and conditional modules: what they mean, and what they cannot."""

from typing import Any

import pytest

from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import UserError
from ds_bert.multitask.arguments import MultitaskArguments, spell_out
from ds_bert.multitask.model import conditional_fields, freeze

BERT = {"model_type": "bert", "num_hidden_layers": 4}


def settled(**values: Any) -> MultitaskArguments:
    return spell_out(MultitaskArguments(**values), set(values))


def test_short_forms() -> None:
    assert settled().task_sampling == "sequential"
    assert settled(use_mt_uncertainty=True).task_sampling == "uncertainty"
    assert settled(uniform_mt_sampling=True, task_sampling="uniform").task_sampling == "uniform"
    published = settled(model_name_or_path="CA-MTL-large")
    assert (published.conditional, published.model_name_or_path) == ("large", "bert-large-uncased")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"use_mt_uncertainty": True, "uniform_mt_sampling": True}, "sampled in two ways"),
        ({"use_mt_uncertainty": True, "task_sampling": "sequential"}, "sampled in two ways"),
        ({"task_sampling": "uncertainty", "schedule": "2bw"}, "2bw"),
        ({"model_name_or_path": "CA-MTL-base", "conditional": "large"}, "means --conditional base"),
    ],
)
def test_contradictions(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        settled(**values)


def test_freezing() -> None:
    is_trained = freeze(EngineSettings(), "0-1", BERT).is_trained
    frozen = ["bert.embeddings.LayerNorm.bias", "bert.encoder.layer.0.output.dense.weight", "bert.encoder.layer.1.x"]
    others = ["bert.encoder.layer.2.x", "bert.encoder.layer.10.x", "bert.pooler.dense.weight", "conditional.layer.0.x"]
    assert not any(map(is_trained, frozen)) and all(map(is_trained, others))
    assert freeze(EngineSettings(), None, BERT).is_trained("bert.embeddings.x")


@pytest.mark.parametrize("layers", ["0-4", "1-2", "3", "all", "0--1", ""])
def test_ranges_that_do_not_exist(layers: str) -> None:
    with pytest.raises(UserError, match="needed is 0-N with N from 0 to 3"):
        freeze(EngineSettings(), layers, BERT)


def test_conditional_modules_are_those_asked_for_or_the_checkpoint_s() -> None:
    arguments = MultitaskArguments(conditional="base", max_seq_length=20)
    assert conditional_fields(arguments, {"conditional"}, BERT) == {"conditional": "base", "conditional_length": 24}
    stored = {**BERT, "conditional": "large", "conditional_length": 128}
    assert conditional_fields(MultitaskArguments(), set(), stored)["conditional"] == "large"
    assert conditional_fields(MultitaskArguments(), set(), BERT) == {"conditional": "none"}
    with pytest.raises(UserError, match="at most 128"):
        conditional_fields(MultitaskArguments(max_seq_length=200), set(), stored)
    with pytest.raises(UserError, match="needs a model of bert, found albert"):
        conditional_fields(arguments, {"conditional"}, {**BERT, "model_type": "albert"})


@pytest.mark.parametrize(("asked", "trained"), [("base", "large"), ("none", "base")])
def test_trained_modules_are_not_dropped_in_silence(asked: str, trained: str) -> None:
    stored = {**BERT, "conditional": trained, "conditional_length": 128}
    arguments = MultitaskArguments(model_name_or_path="checkpoint-9/", conditional=asked)
    with pytest.raises(UserError, match=f"--conditional is {asked}, .* with the modules of {trained}"):
        conditional_fields(arguments, {"conditional"}, stored)
    scratch = MultitaskArguments(config_name="config.json", conditional=asked)
    assert conditional_fields(scratch, {"conditional"}, stored)["conditional"] == asked
    plain = {**BERT, "conditional": "none"}
    assert conditional_fields(arguments, {"conditional"}, plain)["conditional"] == asked
