"""The command's own flags, and what contributors are told of it."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from ds_bert import __version__
from ds_bert.cli import main
from ds_bert.commands import COMMANDS
from tests.support.terminal import BOLD, on_terminal, plain_environment
from tests.test_flags import parsers

ROOT = Path(__file__).resolve().parent.parent


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"ds-bert {__version__}\n"


@pytest.mark.parametrize(("words", "listed"), [([], COMMANDS), (["stage-map"], ("make", "check", "show"))])
def test_without_a_word_a_command_says_what_there_is(
    words: list[str], listed: Iterable[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    printed = capsys.readouterr()
    assert end.value.code == 2 and not printed.err
    assert set(listed) <= set(printed.out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_each_flag_is_for_and_its_default(command: str) -> None:
    for parser in parsers(command):
        formatter = parser._get_formatter()
        for action in parser._actions:
            said = formatter._expand_help(action)
            assert said, f"{parser.prog} {action.dest}"
            default = action.default if isinstance(action.default, list | tuple) else [action.default]
            if action.option_strings and action.nargs != 0 and default not in ([], [None]):
                assert f"(default: {' '.join(map(str, default))})" in said or "default: the cores" in said


@pytest.mark.parametrize(
    "words", [["--help"], ["stage-map", "make", "--help"], ["launch", "--help"], ["inspect", "-h"]]
)
def test_help_is_there_at_once(words: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "ds_bert.cli", *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines()}
    assert ended.returncode == 0 and "argparse" in loaded
    assert not loaded & {"torch", "deepspeed", "transformers", "numpy", "rich", "shtab"}


def test_headings_of_help_are_bold_on_a_terminal_only() -> None:
    words = [sys.executable, "-m", "ds_bert.cli", "prepare", "--help"]
    _, shown = on_terminal(words, PYTHONPATH=str(ROOT))
    piped = subprocess.run(
        words, env={**plain_environment(), "COLUMNS": "100"}, cwd=ROOT, capture_output=True, text=True
    )
    assert f"{BOLD}vocabulary (one of the two)" in shown
    assert "\x1b" not in piped.stdout and re.sub(r"\x1b\[\d*m", "", shown) == piped.stdout


def test_changes_begin_with_this_version() -> None:
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[0] == __version__


@pytest.mark.parametrize("file", ["CONTRIBUTING.md", ".github/workflows/ci.yml"])
def test_make_has_what_is_named(file: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = (ROOT / file).read_text()
    named = set(re.findall(r"(?:`|run: |^)make ([\w-]+)", text, flags=re.MULTILINE))
    named |= {tier for tiers in re.findall(r"tier: \[(.*)\]", text) for tier in tiers.split(", ")}
    assert named and named <= targets, named - targets
