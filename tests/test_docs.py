"""What the documents tell a user to type exists: commands, flags of exactly that command, and files."""

import argparse
import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ds_bert.command_line import FlagParser, load_named
from ds_bert.commands import COMMANDS, module_name
from ds_bert.errors import UserError
from ds_bert.training import settings
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.declaration import flags_of
from ds_bert.training.parser import parse_arguments
from ds_bert.training.unknown import JOBS, explain, named_arguments

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "docker" / "README.md",
        ROOT / "docs" / "coming_from" / "README.md",
        *(ROOT / "docs").glob("*.md"),
    ]
)
TABLES = sorted(set((ROOT / "docs" / "coming_from").glob("*.md")) - set(GUIDES))
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
    assert name in COMMANDS, f"there is no ds-bert {name}"
    parser = argparse.ArgumentParser()
    importlib.import_module(f"ds_bert.commands.{module_name(name)}").add_arguments(parser)
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


def refusal(command: str) -> str:
    """What the job's or the `ds-bert` command's own parser says against a command line; "" where it takes it."""
    words = shlex.split(command)
    try:
        if words[0] == "ds-bert" and words[1] != "--extensions":
            parser = FlagParser()
            importlib.import_module(f"ds_bert.commands.{module_name(words[1])}").add_arguments(parser)
            parser.parse_args(words[2:])
        jobs = [number for number, word in enumerate(words) if word in JOBS]
        if jobs:
            rest = words[jobs[0] + 1 :]
            parse_arguments(load_named(JOBS[words[jobs[0]]]), rest[bool(rest) and rest[0].endswith(".json") :])
    except UserError as error:
        return str(error)
    return ""


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
            if not set(command) & set("…<|&$"):
                assert not refusal(command.partition(" > ")[0]), command


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


def anchors(path: Path) -> set[str]:
    """What viewers make of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*GUIDES, *TABLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^):]+))?\)", path.read_text()):
        leads_to = path.parent / target if target else path
        assert leads_to.exists(), target
        assert not anchor or anchor in anchors(leads_to), f"{target}#{anchor}"


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


def test_readme_is_a_screen_and_a_half() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 80


NEWCOMERS = {
    "the 2BW rule": "ds_bert/schedules/two_bw.py",
    "the stage map's expansion": "ds_bert/stage_map.py",
    "the label mapping": "ds_bert/data/labels.py",
    "where a checkpoint becomes visible": "ds_bert/checkpoint/folders.py",
}


def test_rules_are_two_clicks_from_the_readme() -> None:
    """README → architecture → the file, which has what the row names; the row's words are there to be found."""
    assert "](docs/architecture.md)" in (ROOT / "README.md").read_text()
    text = (ROOT / "docs" / "architecture.md").read_text()
    found = re.findall(r"^\| [^|]+ \| `(ds_bert\.[\w.]+)` \| \[([\w./]+)\]\(\.\./([\w./]+)\) \|$", text, re.M)
    assert {file for _, _, file in found} >= set(NEWCOMERS.values())
    for name, shown, file in found:
        named = pkgutil.resolve_name(name)
        assert shown == file and Path(inspect.getfile(named)) == ROOT / file, name


def test_what_ci_runs_here_runs_there() -> None:
    """The hosted workflow runs the same commands, and more."""
    hosted = (ROOT / ".github/workflows/ci.yml").read_text().replace("${{ matrix.tier }}", "test\nmake test-slow")
    here = (ROOT / ".ci/run").read_text()
    ours, theirs = (set(re.findall(r"^.*\bmake ([\w-]+)", text, re.M)) for text in (here, hosted))
    assert {"lint", "docs", "test", "test-slow"} == ours <= theirs


def cells_of(document: str) -> list[tuple[str, str, str]]:
    """(the heading above, theirs, ours) for each row of a document of `docs/coming_from`."""
    found, heading = [], ""
    for line in (ROOT / "docs" / "coming_from" / document).read_text().splitlines():
        if line.startswith("#"):
            heading = line
        elif line.startswith("|") and not set(line) <= set("|- ") and line != "| theirs | ours |":
            theirs, ours = re.split(r"(?<!\\)\|", line)[1:-1]
            found.append((heading, theirs, ours))
    return found


def test_transformers_flags_are_called_what_the_jobs_call_them() -> None:
    """A flag that a job has is said to be there; of another one the row names all that the job's refusal names."""
    seen = 0
    for heading, theirs, ours in cells_of("transformers.md"):
        job = JOB.search(heading)
        assert job, heading
        own = flags_of_job(job[1])
        for flag in FLAG.findall(theirs):
            if flag in own:
                assert "the same" in ours or flag in ours or "`ds-bert prepare" in ours, (theirs, ours)
                continue
            said = explain(flag[2:], load_named(JOBS[f"pipelines/{job[1]}.py"]), "--{}".format)
            missing = {f"--{name}" for name in named_arguments(said)} - set(FLAG.findall(ours))
            assert said and not missing, (flag, said, ours)
            seen += 1
    assert seen > 40


def test_deepspeed_keys_are_read_taken_or_refused_as_the_table_says(tmp_path: Path) -> None:
    """Every key that is known stands there once, with its flag."""
    tables: dict[str, dict[str, str]] = {}
    text = (ROOT / "docs" / "coming_from" / "deepspeed.md").read_text().partition("## The JSON's keys")[2]
    for about, table in re.findall(r"^(Read|Taken|Refused)[^|]*\n((?:\|.*\n?)+)", text, re.M):
        rows = (re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()[2:])
        tables[about] = {key: ours for theirs, ours in rows for key in re.findall(r"`([\w.]+)`", theirs)}
    shared = {flag.deepspeed: name for name, flag in flags_of(TrainingArguments).items() if flag.deepspeed}
    tuning = {f"zero_optimization.{key}" for key in settings._ZERO_TUNING}
    known = {key.partition("[")[0] for key in shared} | settings._ONLY_HERE | settings._IGNORED | tuning
    assert (
        tables["Read"].keys() | tables["Taken"].keys() == known and not tables["Read"].keys() & tables["Taken"].keys()
    )
    for key, name in shared.items():
        assert f"`--{name}`" in tables["Read"][key.partition("[")[0]], key
    for key in tables["Refused"]:
        config: Any = 3
        for part in reversed(key.split(".")):
            config = {part: config}
        (tmp_path / "ds.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=re.escape(key)):
            settings.apply_deepspeed_config(TrainingArguments(deepspeed_config=str(tmp_path / "ds.json")), set(), 1)


def test_a_wrong_flag_is_found() -> None:
    assert wrong_flags("deepspeed --hostfile hosts pipelines/pretrain.py --train_batch_size 3") == {
        "--train_batch_size"
    }
    assert wrong_flags("ds-bert prepare --stages 2") == {"--stages"}
    assert wrong_flags("--head beam", "finetune_glue") == {"--head"}
    assert not wrong_flags("torchrun --nproc_per_node 2 pipelines/pretrain.py --num_stages 2")
