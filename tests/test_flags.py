"""`ds-bert`: misspelt commands, flags, values and shipped names are refused with the right spelling."""

import argparse
import importlib
import random
from itertools import chain

import pytest

from ds_bert import cli
from ds_bert.command_line import FlagParser
from ds_bert.commands import COMMANDS, module_name
from ds_bert.errors import UserError, meant
from ds_bert.files import find_config, shipped_configs
from ds_bert.training.job_arguments import PretrainArguments
from ds_bert.training.parser import parse_arguments
from tests.training.test_unknown import misspelt


def parsers(command: str) -> list[FlagParser]:
    """The parsers of a command's own flags: one, or one for each of its actions."""
    parser = FlagParser(prog=command)
    importlib.import_module(f"ds_bert.commands.{module_name(command)}").add_arguments(parser)
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return list(chain.from_iterable(action.choices.values() for action in below)) or [parser]


def refused(*words: str) -> str:
    with pytest.raises(UserError) as error:
        cli._run(list(words))
    return str(error.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_misspelt_command(command: str) -> None:
    for wrong in random.Random(command).sample(sorted(misspelt(command) - set(COMMANDS)), 5):
        assert f"did you mean {command}?" in refused(wrong, "--output_dir", "x"), wrong


@pytest.mark.parametrize("command", COMMANDS)
def test_a_misspelt_flag_is_named_before_what_is_missing_without_it(command: str) -> None:
    for parser in parsers(command):
        flags = [flag for flag in parser._option_string_actions if flag.startswith("--") and flag != "--help"]
        for flag in flags:
            letters = flag.removeprefix("--")
            for wrong in random.Random(flag).sample(sorted(misspelt(letters)), 5) if len(letters) > 3 else ():
                if any(known.startswith(f"--{wrong}") for known in flags):
                    continue  # an abbreviation
                with pytest.raises(UserError) as error:
                    parser.parse_args([f"--{wrong}", "1"])
                assert f"unknown argument --{wrong} (did you mean" in str(error.value)
                assert flag in str(error.value), (wrong, str(error.value))


def test_hyphens_are_underscores() -> None:
    words = ["--config-name", "bert-mini", "--stages", "2", "--max-seq-length=64", "--bf16"]
    (make, _, _) = parsers("stage-map")
    taken = make.parse_args(words)
    assert (taken.config_name, taken.max_seq_length, taken.bf16) == ("bert-mini", 64, True)
    (launch,) = parsers("launch")
    for own in (["--max-restarts", "1"], ["--max-restarts=1"]):
        for command in (["--", "torchrun", "--max-restarts", "2"], ["torchrun", "--max-restarts", "2"]):
            launched = launch.parse_args([*own, *command])
            assert (launched.max_restarts, launched.command_line) == (1, command)
    job, _ = parse_arguments(PretrainArguments, ["--max-seq-length", "64", "--bf16", "--per-device_train-batch-size=2"])
    assert (job.max_seq_length, job.bf16, job.per_device_train_batch_size) == (64, True, 2)
    (inspect,) = parsers("inspect")
    assert str(inspect.parse_args(["--", "--output-dir"]).path) == "--output-dir"


def test_the_words_of_another_command_are_left_alone() -> None:
    (launch,) = parsers("launch")
    words = ["torchrun", "--max-restarts", "0", "--nproc-per-node", "2", "job.py", "--max_step", "5"]
    assert launch.parse_args(["--max_restarts", "1", "--", *words]).command_line == ["--", *words]
    assert launch.parse_args(words).command_line == words
    assert "did you mean --max_restarts?" in refused("launch", "--max_restrats", "1", "--", "true")


def test_several_at_once() -> None:
    said = refused("export", "run", "--haed", "x", "--otput_dir", "y", "--frobnicate")
    assert said == (
        "ds-bert export: unknown arguments --haed (did you mean --head?), --otput_dir (did you mean --output_dir?), "
        "--frobnicate; --help lists the arguments"
    )


def test_a_misspelt_value() -> None:
    assert "needed is one of stage, replica; did you mean stage?" in refused(
        "stage-map", "make", "--config_name", "bert-mini", "--stages", "2", "--placement", "stages"
    )


@pytest.mark.parametrize("kind", ["engine", "models", "stage_maps"])
def test_a_misspelt_shipped_name(kind: str) -> None:
    names = {path.stem for path in (shipped_configs() / kind).glob("*.json")}
    for name in names:
        end = name[-4:] if kind == "stage_maps" else ""  # where maps differ from each other by a digit
        near = [wrong for wrong in sorted(misspelt(name) - names) if wrong.endswith(end)]
        for wrong in random.Random(name).sample(near, 5):
            with pytest.raises(UserError) as error:
                find_config(kind, wrong)
            assert name in str(error.value).partition("did you mean")[2], wrong


@pytest.mark.parametrize(
    ("found", "likely"),
    [
        ("max_step", ["max_steps"]),
        ("MAX-STEPS", ["max_steps"]),
        ("maxseq", ["max_seq_length"]),
        ("max", ["max_steps", "max_seq_length"]),
        ("eval_stepz", ["eval_steps"]),
        ("save_stps", ["save_steps"]),
        ("zzz", []),
        ("", []),
        ("m", []),
    ],
)
def test_what_is_alike(found: str, likely: list[str]) -> None:
    assert meant(found, ["max_steps", "max_seq_length", "eval_steps", "save_steps"]) == likely
