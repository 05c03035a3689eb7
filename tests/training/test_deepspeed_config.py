"""DeepSpeed's JSON and the arguments become one set of settings, or are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from ds_bert.errors import UserError
from ds_bert.files import shipped_configs
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.declaration import flags_of
from ds_bert.training.settings import apply_deepspeed_config


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


# One entry per pair: what the file says, the argument, and a value that differs from its default.
PAIRS = [
    ("train_micro_batch_size_per_gpu", "per_device_train_batch_size", 4),
    ("gradient_accumulation_steps", "gradient_accumulation_steps", 4),
    ("gradient_clipping", "max_grad_norm", 0.5),
    ("bf16.enabled", "bf16", True),
    ("fp16.enabled", "fp16", True),
    ("optimizer.params.lr", "learning_rate", 5e-5),
    ("optimizer.params.weight_decay", "weight_decay", 0.1),
    ("optimizer.params.eps", "adam_epsilon", 1e-6),
    ("optimizer.params.bias_correction", "adam_bias_correction", False),
    ("fp16.loss_scale", "loss_scale", 128.0),
    ("fp16.initial_scale_power", "initial_scale_power", 8.0),
    ("fp16.loss_scale_window", "loss_scale_window", 50),
    ("fp16.min_loss_scale", "min_loss_scale", 4.0),
]
OTHERS = {  # what the file has in a form of its own, or needs more beside it
    "optim": ({"optimizer": {"type": "Lamb"}}, {"optim": "lamb"}),
    "adam_beta1": ({"optimizer": {"params": {"betas": [0.8, 0.999]}}}, {"adam_beta1": 0.8}),
    "adam_beta2": ({"optimizer": {"params": {"betas": [0.9, 0.98]}}}, {"adam_beta2": 0.98}),
    "momentum": ({"optimizer": {"type": "SGD", "params": {"momentum": 0.9}}}, {"optim": "sgd", "momentum": 0.9}),
}


@pytest.fixture
def unite(tmp_path: Path) -> Any:
    def apply(config: Any, given: dict[str, Any] | None = None, replicas: int = 1) -> Any:
        path = tmp_path / "ds.json"
        path.write_text(json.dumps(config))
        arguments = TrainingArguments(deepspeed_config=str(path), **(given or {}))
        return apply_deepspeed_config(arguments, set(given or ()), replicas)

    return apply


def test_without_a_file_the_arguments_are_the_settings() -> None:
    arguments = TrainingArguments(max_grad_norm=0.3, weight_decay=0.2, adam_beta2=0.98, bf16=True, seed=7, trace=True)
    same, settings = apply_deepspeed_config(arguments, set(), 1)
    assert same == arguments
    assert (settings.optimizer, settings.precision, settings.zero_stage) == ("adamw", "bf16", 0)
    assert settings.optimizer_options == {"betas": (0.9, 0.98), "eps": 1e-8}
    assert (settings.max_grad_norm, settings.weight_decay, settings.seed, settings.traced) == (0.3, 0.2, 7, 10)


def test_every_flag_that_the_file_shares_is_tested() -> None:
    shared = {name: flag.deepspeed for name, flag in flags_of(TrainingArguments).items() if flag.deepspeed}
    assert {name: key for key, name, _ in PAIRS}.items() <= shared.items()
    assert {name for _, name, _ in PAIRS} | OTHERS.keys() == shared.keys()


@pytest.mark.parametrize(
    ("config", "flags"), [*((nested(key, value), {name: value}) for key, name, value in PAIRS), *OTHERS.values()]
)
def test_the_file_and_flags_say_the_same(unite: Any, config: dict[str, Any], flags: dict[str, Any]) -> None:
    by_file, by_flags = unite(config), unite({}, flags)
    assert by_file == by_flags != unite({})


@pytest.mark.parametrize(("key", "name", "value"), PAIRS)
def test_the_file_replaces_a_default(unite: Any, key: str, name: str, value: Any) -> None:
    assert getattr(unite(nested(key, value))[0], name) == value


@pytest.mark.parametrize(("key", "name", "value"), PAIRS)
def test_auto_leaves_the_argument(unite: Any, key: str, name: str, value: Any) -> None:
    assert getattr(unite(nested(key, "auto"), {name: value})[0], name) == value


@pytest.mark.parametrize(("key", "name", "value"), PAIRS)
def test_the_same_twice_is_no_contradiction(unite: Any, key: str, name: str, value: Any) -> None:
    assert getattr(unite(nested(key, value), {name: value})[0], name) == value


@pytest.mark.parametrize(("key", "name", "value"), PAIRS)
def test_a_default_that_was_given_contradicts_the_file(unite: Any, key: str, name: str, value: Any) -> None:
    default = getattr(TrainingArguments(), name)
    with pytest.raises(UserError, match=f"ds.json: {key} is {value}, but --{name} is {default}"):
        unite(nested(key, value), {name: default})


@pytest.mark.parametrize(("key", "name", "value"), PAIRS)
def test_values_of_another_type_are_refused(unite: Any, key: str, name: str, value: Any) -> None:
    for wrong in ("true", [value], None):
        with pytest.raises(UserError, match=f"ds.json: {key} is .* needed is a value of type"):
            unite(nested(key, wrong))


def test_betas(unite: Any) -> None:
    arguments, settings = unite({"optimizer": {"type": "AdamW", "params": {"betas": [0.8, 0.9]}}})
    assert (arguments.adam_beta1, arguments.adam_beta2) == (0.8, 0.9)
    assert settings.optimizer_options["betas"] == (0.8, 0.9)
    with pytest.raises(UserError, match=r"betas\[1\] is 0.9, but --adam_beta2 is 0.999"):
        unite({"optimizer": {"params": {"betas": [0.9, 0.9]}}}, {"adam_beta2": 0.999})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"type": "AdamW"}, "adamw"),
        ({"type": "Adam"}, "adamw"),
        ({"type": "Adam", "params": {"adam_w_mode": False}}, "adam"),
        ({"type": "Lamb"}, "lamb"),
        ({"type": "SGD"}, "sgd"),
    ],
)
def test_optimizers(unite: Any, written: dict[str, Any], meant: str) -> None:
    arguments, settings = unite({"optimizer": written})
    assert arguments.optim == settings.optimizer == meant


def test_unknown_optimizers_are_refused(unite: Any) -> None:
    with pytest.raises(UserError, match=r"optimizer.type is 'OneBitLamb', needed is AdamW, Lamb, Adam or SGD"):
        unite({"optimizer": {"type": "OneBitLamb"}})


def test_bounds_of_the_trust_ratio_are_refused(unite: Any) -> None:
    """DeepSpeed's Lamb keeps it within 0.01 and 10 unless told otherwise; the paper's is free."""
    with pytest.raises(UserError, match=r"optimizer.params.max_coeff = 10.0 is not supported"):
        unite({"optimizer": {"type": "Lamb", "params": {"max_coeff": 10.0}}})


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "adam"])
def test_a_momentum_that_an_optimizer_does_not_have_is_refused(optimizer: str) -> None:
    with pytest.raises(UserError, match=f"arguments: momentum is 0.9 with optimizer {optimizer}, needed is sgd"):
        apply_deepspeed_config(TrainingArguments(optim=optimizer, momentum=0.9), {"momentum"}, 1)


@pytest.mark.parametrize("kind", ["AdamW", "Lamb"])
def test_moments_without_bias_correction(unite: Any, kind: str) -> None:
    corrected, uncorrected = (
        unite({"optimizer": {"type": kind, "params": params}})[1].optimizer_options
        for params in ({}, {"bias_correction": False})
    )
    assert uncorrected == {**corrected, "bias_correction": False} != corrected


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_always_corrects_is_refused_without(unite: Any, optimizer: str) -> None:
    with pytest.raises(UserError, match=f"off with optimizer {optimizer}, needed is adamw or lamb"):
        unite({}, {"optim": optimizer, "adam_bias_correction": False})


def test_sgd_takes_momentum_and_no_betas(unite: Any) -> None:
    for momentum, expected in ((0.9, 0.9), ("auto", 0.0)):
        _, settings = unite({"optimizer": {"type": "SGD", "params": {"momentum": momentum}}})
        assert settings.optimizer_options == {"momentum": expected}


@pytest.mark.parametrize(
    ("optimizer", "option"),
    [
        ("SGD", {"betas": [0.9, 0.98]}),
        ("SGD", {"eps": 1e-6}),
        ("AdamW", {"momentum": 0.9}),
        ("Lamb", {"momentum": 0.9}),
    ],
)
def test_options_that_an_optimizer_does_not_have_are_refused(unite: Any, optimizer: str, option: dict) -> None:
    with pytest.raises(UserError, match=f"optimizer.params.{next(iter(option))} .* but {optimizer.lower()} has none"):
        unite({"optimizer": {"type": optimizer, "params": option}})


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("fp16", "initial_scale_power", 2000),
        ("fp16", "loss_scale_window", 0),
        ("fp16", "min_loss_scale", 0),
        ("optimizer", "momentum", 7),
    ],
)
def test_numbers_that_nothing_can_be_done_with_are_refused(unite: Any, section: str, key: str, value: float) -> None:
    content = {"type": "SGD", "params": {key: value}} if section == "optimizer" else {key: value}
    with pytest.raises(UserError, match=f"{key} is {value}, needed is a number from"):
        unite({section: content})


def test_loss_scaling(unite: Any) -> None:
    fp16 = {"enabled": True, "initial_scale_power": 8, "loss_scale_window": 50, "min_loss_scale": 4, "loss_scale": 0}
    scaling = unite({"fp16": fp16})[1].loss_scaling
    assert (scaling.initial, scaling.window, scaling.minimum, scaling.fixed) == (256.0, 50, 4.0, 0.0)
    assert unite({"fp16": {"loss_scale": 128}})[1].loss_scaling.fixed == 128.0


@pytest.mark.parametrize(("wanted", "fits"), [(96, True), ("auto", True), (32, False), (96.5, False), ("96", False)])
def test_the_global_batch(unite: Any, wanted: Any, fits: bool) -> None:
    given = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
    if fits:
        unite({"train_batch_size": wanted}, given, replicas=3)
    else:
        with pytest.raises(UserError, match="8 examples x 4 micro-batches x 3 replicas are 96"):
            unite({"train_batch_size": wanted}, given, replicas=3)


@pytest.mark.parametrize(("stage", "supported"), [(0, True), (1, True), (2, False), (3, False), (True, False)])
def test_zero(unite: Any, stage: Any, supported: bool) -> None:
    config = {"zero_optimization": {"stage": stage, "overlap_comm": True, "reduce_bucket_size": 5e8}}
    if supported:
        assert unite(config)[1].zero_stage == stage
    else:
        with pytest.raises(UserError, match="needed is 0 or 1: stages 2 and 3"):
            unite(config)


def test_what_changes_no_number_is_let_pass(unite: Any) -> None:
    unite({"steps_per_print": 10, "wall_clock_breakdown": True, "zero_allow_untested_optimizer": True})


@pytest.mark.parametrize("name", ["fp32", "fp32_zero1", "bf16", "bf16_zero1", "fp16_zero1"])
def test_shipped_files(name: str) -> None:
    given = {"per_device_train_batch_size": 4, "learning_rate": 3e-4, "max_grad_norm": 0.7, "adam_beta2": 0.98}
    arguments = TrainingArguments(deepspeed_config=name, **given)
    united, settings = apply_deepspeed_config(arguments, set(given), 2)
    precision, _, zero = name.partition("_")
    assert (settings.precision, settings.zero_stage) == (precision, int(zero == "zero1"))
    assert {key: getattr(united, key) for key in given} == given
    assert settings.max_grad_norm == 0.7 and settings.optimizer_options["betas"] == (0.9, 0.98)


def test_every_shipped_file_is_tested() -> None:
    names = {path.stem for path in (shipped_configs() / "engine").glob("*.json")}
    assert names == {"fp32", "fp32_zero1", "bf16", "bf16_zero1", "fp16_zero1"}
