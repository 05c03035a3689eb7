"""`ds-bert completion`: what real shells complete with its scripts."""

import contextlib
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ds_bert.cli import main
from ds_bert.commands import COMMANDS
from ds_bert.commands.completion import LAUNCHERS, SHELLS, SWITCHES
from ds_bert.training.unknown import JOBS
from tests.support.terminal import converse
from tests.test_docs import flags_of_launcher

Complete = Callable[[str], set[str]]

BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
specification=$(complete -p "$1")
"$(sed 's/.* -F \\([^ ]*\\) .*/\\1/' <<< "$specification")" "$1" "${@: -1}" 2>/dev/null  # compopt is for TAB only
if [ ${#COMPREPLY[@]} = 0 ] && [[ $specification == *"-o default"* ]]; then
    COMPREPLY=($(compgen -f -- "${@: -1}"))  # what TAB does then
fi
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module", params=SHELLS)
def script(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script of a shell that this machine has, in a folder with a few files."""
    shell = request.param
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} here")
    folder = tmp_path_factory.mktemp("here")
    for name in ("corpus.txt", "run.json", "pipelines/pretrain.py", "other.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["completion", shell]) == 0
    path = folder / shell
    path.write_text(printed.getvalue())
    return path


@pytest.fixture
def complete(script: Path) -> Complete:
    """What the shell offers for a line whose last word has just begun."""
    return {"bash": _in_bash, "zsh": _in_zsh, "fish": _in_fish}[script.name](script)


def _in_bash(script: Path) -> Complete:
    def ask(line: str) -> set[str]:
        command = ["bash", "--norc", "-c", BASH, "bash", script, *line.split(" ")]
        return set(
            subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=True).stdout.split()
        )

    return ask


def _in_fish(script: Path) -> Complete:
    def ask(line: str) -> set[str]:
        command = ["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"]
        environment = {**os.environ, "HOME": str(script.parent / "home")}
        ended = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=True, env=environment)
        return {row.partition("\t")[0].rstrip("/") for row in ended.stdout.splitlines()}

    return ask


def _in_zsh(script: Path) -> Complete:
    """Press TAB: zsh completes at no other place. What it shows are words, or the one that there is, in the line."""
    start = f"PS1='>> '; autoload -Uz compinit; compinit -u -D; source {script.name}; LISTMAX=10000; echo rea''dy\n"
    clear = "\x15"

    def ask(line: str) -> set[str]:
        exchanges = [(start, "ready\r\n.*>> "), (f"{line}\t{clear}echo en''d\n", "end\r\n")]
        shown = converse(["zsh", "-f", "-i"], exchanges, script.parent)
        return {word.rstrip("/") for word in re.findall(r"[\w./-]+", shown.replace(f"{line}\a", ""))}

    return ask


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ("ds-bert ", set(COMMANDS), set(JOBS)),
        ("ds-bert st", {"stage-map"}, {"launch"}),
        ("ds-bert stage-map ", {"make", "check", "show"}, {"prepare"}),
        ("ds-bert stage-map make --b", {"--balance", "--bf16"}, {"--head"}),
        ("ds-bert stage-map make --balance ", {"flops", "parameters", "layers"}, {"run.json"}),
        ("ds-bert prepare --input corpus.txt --format p", {"prose"}, {"pipelines"}),
        ("ds-bert prepare --input cor", {"corpus.txt"}, {"run.json"}),
        ("ds-bert verify ru", {"run.json"}, {"corpus.txt"}),
        ("ds-bert launch --max", {"--max_restarts"}, set()),
        ("ds-bert completion ", set(SHELLS), {"corpus.txt"}),
        ("deepspeed --num_accelerators 2 --hostfile cor", {"corpus.txt"}, {"run.json"}),
        ("deepspeed -q --num_accelerators 2 pipelines/finetune_", {job for job in JOBS if "finetune_" in job}, set()),
        ("deepspeed -q --num_accelerators 2 pipelines/pretrain.py ru", {"run.json"}, {"corpus.txt"}),
        ("deepspeed pipelines/pretrain.py run.json --max_s", {"--max_seq_length", "--max_steps"}, {"--seed"}),
        ("deepspeed pipelines/pretrain.py --schedule ", {"1f1b", "gpipe", "2bw"}, {"run.json"}),
        ("deepspeed pipelines/pretrain.py --resume --train_path cor", {"corpus.txt"}, {"run.json"}),
        ("deepspeed oth", {"other.py"}, {"run.json"}),
        ("deepspeed other.py cor", {"corpus.txt"}, {"run.json"}),
        ("torchrun --nproc_per_node 2 pipelines/multitask.py --conditi", {"--conditional"}, {"--config_name"}),
    ],
)
def test_a_word_is_completed(complete: Complete, line: str, offered: set[str], not_offered: set[str]) -> None:
    found = complete(line)
    assert offered <= found and not found & not_offered


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_have_the_flags(launcher: str) -> None:
    assert {flag for flag in (*LAUNCHERS[launcher], *SWITCHES[launcher]) if len(flag) > 2} <= flags_of_launcher(
        launcher
    )
