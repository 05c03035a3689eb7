"""What the documents tell a user to type exists: commands, flags of exactly that command, and files."""

import argparse
import dataclasses
import importlib
import pkgutil
import re
from functools import cache
from pathlib import Path

import pytest

from ds_bert import cli
from ds_bert.training.unknown import JOBS

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "docker" / "README.md",
        *(ROOT / "docs").glob("*.md"),
    ]
)
TABLES = sorted([*(ROOT / "docs" / "coming_from").glob("*.md"), *(ROOT / "docs").glob("coming_from_*.md")])
FLAG = re.compile(r"(?<![\w-])--[A-Za-z]\w*")
JOB = re.compile(r"pipelines/(\w+)\.py")
SUBCOMMAND = re.compile(r"\bds-bert ([a-z-]+)")
# What is no launcher of torch's or DeepSpeed's, and no command of ours.
OTHERS = ("docker ", "sbatch ", "pip ", "tensorboard ", "source ", "ssh", "python -m", "python docs/", "python tests/")
OURS = re.compile(r"`((?:ds_bert|ds_configs|pipelines|docs|docker|tests)/[\w./-]*)")


@cache
def flags_of_job(name: str) -> frozenset[str]:
    """The flags of a job, from the dataclass of its arguments."""
    module, _, kind = JOBS[f"pipelines/{name}.py"].partition(":")
    fields = dataclasses.fields(getattr(importlib.import_module(module), kind))
    return frozenset({"--help", *(f"--{field.name}" for field in fields)})


@cache
def flags_of_command(name: str) -> frozenset[str]:
    """The flags of a `ds-bert` command and of its actions."""
    assert name in cli.COMMANDS, f"there is no ds-bert {name}"
    parser = argparse.ArgumentParser()
    importlib.import_module(f"ds_bert.commands.{cli._module_name(name)}").add_arguments(parser)
    found, waiting = set(), [parser]
    while waiting:
        for action in waiting.pop()._actions:
            found |= set(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
    return frozenset(found)


@cache
def flags_of_launcher(name: str) -> frozenset[str]:
    """The flags of `deepspeed` or torchrun."""
    if name == "torchrun":
        from torch.distributed.run import get_args_parser

        options = {option for action in get_args_parser()._actions for option in action.option_strings}
        return frozenset(option.replace("-", "_").replace("__", "--", 1) for option in options) | frozenset(options)
    from deepspeed.launcher import runner

    return frozenset(FLAG.findall(Path(runner.__file__).read_text()))


def wrong_flags(command: str, job: str = "") -> set[str]:
    """The flags of a command line that none of its parts has: launcher before the job, job or `ds-bert` command."""
    known: set[str] = set()
    if subcommand := SUBCOMMAND.search(command):
        known |= flags_of_command(subcommand[1])
    known |= {flag for name in ("deepspeed", "torchrun") if re.search(rf"\b{name}\b", command)
              for flag in flags_of_launcher(name)}  # fmt: skip
    named = JOB.search(command)
    if named or (job and not subcommand):
        known |= flags_of_job(named[1] if named else job)
    return set(FLAG.findall(command)) - known


def commands(text: str) -> list[str]:
    """The command lines of a document's blocks, continued lines joined, what is piped or commented left out."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.M | re.S)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return [line.split(" # ")[0].strip() for line in lines]


@pytest.mark.parametrize("path", [*GUIDES, *TABLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_command_lines_have_flags_that_exist(path: Path) -> None:
    for command in commands(path.read_text()):
        starts = re.match(r"(deepspeed|torchrun|ds-bert|python) ", command)
        if starts and not command.startswith(OTHERS):
            assert not wrong_flags(command), command


def rows(text: str) -> list[tuple[str, str]]:
    """(the job or command of the heading above, ours) for each row of a document's tables."""
    found, about = [], ""
    for line in text.splitlines():
        if line.startswith("#"):
            named = JOB.search(line)
            about = named[1] if named else ""
        elif line.startswith("|") and not set(line) <= set("|- "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.append((about, cells[-1]))
    return found


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.name)
def test_tables_name_flags_that_exist(path: Path) -> None:
    read = rows(path.read_text())
    assert any(job for job, _ in read), "no heading names a job"
    for job, ours in read:
        for span in re.findall(r"`([^`]+)`", ours):
            if FLAG.search(span):
                assert not wrong_flags(span, job), (job, span)


@pytest.mark.parametrize("path", [*GUIDES, *TABLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(path: Path) -> None:
    for name in OURS.findall(path.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", [*GUIDES, *TABLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", [*GUIDES, *TABLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_fits_a_screen(path: Path) -> None:
    """Lines of at most 120 characters, but for tables and what is to be copied."""
    is_code = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        is_code ^= line.lstrip().startswith("```")
        assert len(line) <= 120 or is_code or line.startswith("|"), f"line {number}: {len(line)} characters"


PYTHON = [path for folder in ("ds_bert", "pipelines", "docs") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("path", [*GUIDES, *TABLES, *PYTHON], ids=lambda path: str(path.relative_to(ROOT)))
def test_names_of_python_are_there(path: Path) -> None:
    """What stands as `ds_bert.module.Name` in a document or a docstring can be imported."""
    for name in set(re.findall(r"`(ds_bert(?:\.\w+)+)`", path.read_text())) - {"ds_bert.safetensors"}:
        assert pkgutil.resolve_name(name), name


def test_a_wrong_flag_is_found() -> None:
    assert wrong_flags("deepspeed --hostfile hosts pipelines/pretrain.py --train_batch_size 3") == {
        "--train_batch_size"
    }
    assert wrong_flags("ds-bert prepare --stages 2") == {"--stages"}
    assert wrong_flags("--head beam", "finetune_glue") == {"--head"}
    assert not wrong_flags("torchrun --nproc_per_node 2 pipelines/pretrain.py --num_stages 2")
