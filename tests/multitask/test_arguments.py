"""Short forms, published names, freezing and conditional modules: what they mean, and what they cannot."""

from dataclasses import replace
from typing import Any

import pytest

from ds_bert.engine.settings import EngineSettings
from ds_bert.errors import UserError
from ds_bert.modeling.config import MODULES
from ds_bert.multitask.arguments import MultitaskArguments, spell_out
from ds_bert.multitask.model import begin_last_layer, conditional_fields, freeze
from ds_bert.training.starting_model import StartingModel

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
    assert conditional_fields(arguments, {"conditional"}, BERT) == {
        "conditional": "base",
        "conditional_length": 24,
        "conditional_last_layer": "published",
    }
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


def test_modules_are_left_out_by_name_and_a_trained_model_keeps_its_own() -> None:
    asked = {"conditional", "conditional_modules", "conditional_last_layer"}
    some = settled(conditional="base", conditional_modules=["norm", "attention"], conditional_last_layer="pretrained")
    fields = conditional_fields(some, asked, BERT)
    assert fields["conditional_modules"] == ["attention", "norm"] and fields["conditional_last_layer"] == "pretrained"
    trained = {**BERT, **fields}
    again = MultitaskArguments(model_name_or_path="checkpoint-9/")
    assert conditional_fields(again, set(), trained) == fields
    assert conditional_fields(replace(some, model_name_or_path="checkpoint-9/"), asked, trained) == fields
    for name, value, found in (
        ("conditional_modules", list(MODULES), "attention norm"),
        ("conditional_last_layer", "published", "pretrained"),
    ):
        other = replace(again, **{name: value})
        with pytest.raises(UserError, match=f"--{name} is another than the model was trained with, {found};"):
            conditional_fields(other, {name}, trained)
    with pytest.raises(UserError, match="names 'film', needed are some of alignment, attention, norm, bottleneck"):
        settled(conditional="base", conditional_modules=["film"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("conditional_modules", "none"), ("conditional_last_layer", "none"), ("conditional_last_layer", "large")],
)
def test_flags_of_modules_that_are_not_there(name: str, kind: str) -> None:
    with pytest.raises(UserError, match=f"--{name} is for --conditional base.*, found {kind}; leave it out"):
        conditional_fields(MultitaskArguments(conditional=kind), {"conditional", name}, BERT)


def test_a_model_whose_last_layer_had_one_norm_is_refused() -> None:
    old = {**BERT, "conditional": "base", "conditional_length": 128}
    with pytest.raises(UserError, match=r"checkpoint-9.*earlier version, whose last layer had one conditional norm"):
        conditional_fields(MultitaskArguments(model_name_or_path="checkpoint-9"), set(), old)
    large = {**old, "conditional": "large"}
    assert conditional_fields(MultitaskArguments(model_name_or_path="x"), set(), large)["conditional"] == "large"


def test_a_last_layer_that_begins_afresh_is_trained() -> None:
    class Weights:
        left_out: tuple[str, ...] = ()

        def without(self, *prefixes: str) -> "Weights":
            self.left_out += prefixes
            return self

    def left_out(described: dict[str, Any], frozen: str | None = None, **fields: Any) -> tuple[str, ...]:
        source: Any = StartingModel({**BERT, **fields}, None, Weights())  # type: ignore[arg-type]
        begun, notes = begin_last_layer(source, described, frozen)
        assert bool(notes) == bool(begun.weights.left_out)  # type: ignore[union-attr]
        return begun.weights.left_out  # type: ignore[union-attr]

    published = {"conditional": "base", "conditional_last_layer": "published"}
    assert left_out(published, "0-2") == ("bert.encoder.layer.3.",)
    assert not left_out(published | {"conditional_last_layer": "pretrained"}, "0-3")
    assert not left_out(published | {"conditional_modules": ["norm"]})  # it is BERT's as it is
    assert not left_out(published, **published)  # trained before
    assert not left_out({"conditional": "large"})
    with pytest.raises(UserError, match="0-3 would leave the last layer at its first random weights; needed is 0-2"):
        left_out(published, "0-3")
