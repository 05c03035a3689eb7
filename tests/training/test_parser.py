"""Arguments from flags and from a JSON file: types, precedence, and what the user gave."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ds_bert.errors import UserError
from ds_bert.training.declaration import Resume, Subject, argument
from ds_bert.training.job_arguments import GlueArguments, PretrainArguments
from ds_bert.training.parser import parse_arguments


def run_json(folder: Path, **values: Any) -> str:
    path = folder / "run.json"
    path.write_text(json.dumps(values))
    return str(path)


def parse(*words: str) -> tuple[PretrainArguments, set[str]]:
    return parse_arguments(PretrainArguments, words)


def test_defaults() -> None:
    assert parse() == (PretrainArguments(), set())


def test_flags_have_their_types() -> None:
    arguments, given = parse("--max_steps", "7", "--learning_rate", "2e-4", "--bf16", "--output_dir", "10")
    assert (arguments.max_steps, arguments.learning_rate, arguments.bf16) == (7, 2e-4, True)
    assert arguments.output_dir == "10"
    assert given == {"max_steps", "learning_rate", "bf16", "output_dir"}


@pytest.mark.parametrize(("word", "value"), [("true", True), ("false", False), ("0", False)])
def test_a_flag_may_switch_off(tmp_path: Path, word: str, value: bool) -> None:
    arguments, given = parse(run_json(tmp_path, bf16=True), "--bf16", word)
    assert arguments.bf16 is value and given == {"bf16"}


def test_flags_override_the_file_wherever_they_stand(tmp_path: Path) -> None:
    path = run_json(tmp_path, max_steps=5, learning_rate=1, seed=3)
    for words in ([path, "--seed", "4", "--weight_decay=0"], ["--seed", "4", "--weight_decay=0", path]):
        arguments, given = parse(*words)
        assert (arguments.max_steps, arguments.seed, arguments.weight_decay) == (5, 4, 0.0)
        assert type(arguments.learning_rate) is float
        assert given == {"max_steps", "learning_rate", "seed", "weight_decay"}


def test_a_default_that_was_given_counts_as_given(tmp_path: Path) -> None:
    _, given = parse(run_json(tmp_path, seed=42), "--max_grad_norm", "1.0")
    assert given == {"seed", "max_grad_norm"}


@pytest.mark.parametrize("rank", ["--local_rank=1", "--local-rank=1"])
def test_a_launcher_may_put_its_flag_before_the_file(tmp_path: Path, rank: str) -> None:
    arguments, _ = parse(rank, run_json(tmp_path, max_steps=5), "--seed", "1")
    assert (arguments.local_rank, arguments.max_steps, arguments.seed) == (1, 5, 1)


def test_null_is_for_what_may_be_missing(tmp_path: Path) -> None:
    assert parse(run_json(tmp_path, stage_map=None))[0].stage_map is None
    with pytest.raises(UserError, match="seed is None"):
        parse(run_json(tmp_path, seed=None))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", "1e-4"),
        ("learning_rate", True),
        ("learning_rate", None),
        ("max_steps", 10.7),
        ("max_steps", 10.0),
        ("max_steps", "10"),
        ("max_steps", False),
        ("bf16", "false"),
        ("bf16", 0),
        ("output_dir", 1),
        ("output_dir", {}),
        ("optim", "lion"),
        ("Seed", 1),
    ],
)
def test_values_of_another_type_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = run_json(tmp_path, **{key: value})
    with pytest.raises(UserError, match=rf"^{path}: .*{key}"):
        parse(path)


@pytest.mark.parametrize("words", [["--max_step", "5"], ["--max_steps", "5.0"], ["--seed"], ["a.json", "b.json"]])
def test_flags_that_are_wrong_are_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match="--help lists the arguments"):
        parse(*words)


def test_help_names_every_argument(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in PretrainArguments.__dataclass_fields__)


@dataclass
class Other:
    """Another job's arguments."""

    name: str | None = argument(None, "A name.", Subject.MODEL, Resume.FREE)
    share: float = argument(0.5, "A share, 100 % at most.", Subject.DATA, Resume.FREE)


def test_any_dataclass_will_do(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert parse_arguments(Other, [run_json(tmp_path, share=1), "--name", "x"]) == (Other("x", 1.0), {"name", "share"})
    with pytest.raises(SystemExit):
        parse_arguments(Other, ["--help"])
    assert "100 % at most" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--num_stages", "2"], ["--stage_map", "map.json"]])
def test_a_pipeline_tells_cuda_what_it_must_know_before_anything_asks_for_gpus(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("CUDA_MODULE_LOADING", "CUDA_DEVICE_MAX_CONNECTIONS", "NCCL_RUNTIME_CONNECT")
    monkeypatch.setattr(os, "environ", {})
    parse_arguments(PretrainArguments, [])
    assert not os.environ
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    parse_arguments(PretrainArguments, words)
    assert [os.environ[name] for name in names] == ["EAGER", "1", "0"]  # the user is not overruled


def test_arguments_by_their_names_are_as_in_a_file(tmp_path: Path) -> None:
    path = run_json(tmp_path, max_steps=5, seed=3)
    told = {"json_file": Path(path), "seed": 4, "learning_rate": 1, "output_dir": tmp_path, "bf16": True}
    arguments, given = parse_arguments(PretrainArguments, told)
    assert (arguments.max_steps, arguments.seed, arguments.output_dir, arguments.bf16) == (5, 4, str(tmp_path), True)
    assert type(arguments.learning_rate) is float and given == {"max_steps", *told} - {"json_file"}
    assert parse_arguments(PretrainArguments, {}) == parse_arguments(PretrainArguments, {"json_file": None})


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"max_steps": "5"}, "max_steps is '5' (a str), needed is a value of type int"),
        ({"bf16": 1}, "bf16 is 1 (a int), needed is a value of type bool"),
        ({"max_step": 5}, "unknown argument 'max_step'"),
        ({"optim": "adagrad"}, "optim is 'adagrad', needed is one of adamw"),
        ({"json_file": "nowhere.json"}, "nowhere.json: no such file"),
    ],
)
def test_what_is_wrong_by_name(told: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_arguments(PretrainArguments, told)
    assert str(refusal.value).startswith(said)


def test_sequences_and_paths_become_what_a_file_would_hold() -> None:
    arguments, _ = parse_arguments(GlueArguments, {"seeds": (1, 2), "train_file": Path("a/b.csv")})
    assert (arguments.seeds, arguments.train_file) == ([1, 2], "a/b.csv")


@pytest.mark.parametrize(
    ("in_file", "flag", "value"),
    [
        ({"model_name_or_path": "bert-base/"}, "config_name", "bert-mini"),
        ({"max_steps": 1000}, "num_train_epochs", 3.0),
        ({"warmup_steps": 320}, "warmup_ratio", 0.0),
        ({"warmup_ratio": 0.1}, "warmup_steps", 0),
    ],
)
def test_a_flag_puts_a_file_s_other_way_to_say_it_aside(
    tmp_path: Path, in_file: dict[str, Any], flag: str, value: Any
) -> None:
    (other,) = in_file
    arguments, given = parse(run_json(tmp_path, seed=3, **in_file), f"--{flag}", str(value))
    assert given == {"seed", flag}
    assert getattr(arguments, flag) == value and getattr(arguments, other) == getattr(PretrainArguments(), other)


def test_what_stands_in_nobody_s_way_stays(tmp_path: Path) -> None:
    """-1 steps are as many as the epochs have; a model that is not wanted is refused with the configuration's name."""
    arguments, _ = parse(run_json(tmp_path, num_train_epochs=2, max_steps=5), "--max_steps", "-1")
    assert (arguments.num_train_epochs, arguments.max_steps) == (2.0, -1)
    arguments, _ = parse(run_json(tmp_path, config_name="bert-mini"), "--model_name_or_path", "x/")
    assert (arguments.config_name, arguments.model_name_or_path) == ("bert-mini", "x/")


def test_recipe_defaults_give_way_to_all_else(tmp_path: Path) -> None:
    path = run_json(tmp_path, learning_rate=1e-3, seed=3)
    arguments, given = parse(path, "--recipe_defaults", "pipedream", "--warmup_steps", "7")
    assert given == {"learning_rate", "seed", "recipe_defaults", "warmup_steps"}
    assert (arguments.schedule, arguments.adam_bias_correction, arguments.adam_epsilon) == ("2bw", False, 1e-6)
    assert (arguments.learning_rate, arguments.warmup_steps, arguments.warmup_ratio) == (1e-3, 7, 0.0)
    assert parse(run_json(tmp_path, recipe_defaults="pipedream"))[0].schedule == "2bw"


def test_recipe_defaults_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"pretrain": {"weight_decay": 0}}))
    assert parse("--recipe_defaults", str(path))[0].weight_decay == 0.0


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ("meta_adapters", "meta_adapters: has nothing for pretrain, only for meta_train, few_shot; leave it out"),
        ("pipedram", "did you mean pipedream"),
        ({"pretrain": {"max_step": 3}}, r"own.json: pretrain: unknown argument 'max_step' \(did you mean 'max_steps'"),
        ({"pretrain": {"max_steps": 0.5}}, "own.json: pretrain: max_steps is 0.5"),
        ({"pretrain": {"max_steps": 0}}, "--max_steps is 0, needed is"),
        ({"weight_decay": 0}, "own.json: needed is an object from the names of jobs"),
        ([], "own.json: needed is an object from the names of jobs"),
    ],
)
def test_recipe_defaults_that_are_none(tmp_path: Path, defaults: Any, message: str) -> None:
    name = defaults
    if not isinstance(defaults, str):
        name = str(tmp_path / "own.json")
        Path(name).write_text(json.dumps(defaults))
    with pytest.raises(UserError, match=message):
        parse("--recipe_defaults", name)
