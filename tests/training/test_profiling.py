"""The profiler runs over the steps it was told, on every rank, and wrong ranges are refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ds_bert.engine.process_group import Grid
from ds_bert.errors import UserError
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.settings import check_together, named_steps, ranges_of, total_steps, traced_steps
from ds_bert.training.trace import FOLDER, Profiler
from tests.support.meters import ONE
from tests.support.toy import toy_map

each_range = pytest.mark.parametrize("name", ranges_of(TrainingArguments()))


@each_range
@pytest.mark.parametrize(("text", "steps"), [("7", [7]), ("10-12", [10, 11, 12]), ("1-1", [1]), (None, [])])
def test_ranges(name: str, text: str | None, steps: list[int]) -> None:
    assert list(named_steps(TrainingArguments(**{name: text}), name)) == steps


@each_range
@pytest.mark.parametrize(
    "text", ["", "0", "0-3", "12-10", "-3", "3-", "3,4", "3 - 4", "a-b", "1-2-3", "1.5", "٣", "--1"]
)
def test_what_is_no_range(name: str, text: str) -> None:
    with pytest.raises(UserError, match=rf"--{name} is .*needed is a step or a range"):
        check_together(TrainingArguments(**{name: text, "output_dir": "out"}))


@each_range
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output_dir": None, "num_minibatches": 40}, "needs --output_dir"),
        ({"max_steps": 11}, "but the training has 11 steps"),
        ({"num_minibatches": 43, "gradient_accumulation_steps": 4}, "but the training has 11 steps"),
    ],
)
def test_ranges_that_do_not_fit_the_run(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=rf"--{name} .*{words}"):
        check_together(TrainingArguments(**{name: "10-12", "output_dir": "out", **changes}))


@each_range
def test_epochs_say_how_many_steps_there_are_only_once_the_data_is_known(name: str) -> None:
    arguments = TrainingArguments(**{name: "10-12", "output_dir": "out", "num_train_epochs": 2})  # type: ignore[arg-type]
    check_together(arguments)
    assert total_steps(arguments, 6.0) == 12
    with pytest.raises(UserError, match="but the training has 11 steps"):
        total_steps(arguments, 5.5)


def test_what_is_traced() -> None:
    """``--trace`` is short for the last steps; ``--trace_steps`` says which, also where a JSON file has ``trace``."""
    assert traced_steps(TrainingArguments()) == 0
    assert traced_steps(TrainingArguments(trace=True)) == 10
    for trace in (False, True):
        assert traced_steps(TrainingArguments(trace=trace, trace_steps="3-5")) == range(3, 6)
    with pytest.raises(UserError, match="--trace needs --output_dir"):
        check_together(TrainingArguments(trace=True, num_minibatches=4))


def _run(folder: Path, steps: str | None, taken: range, rank: int = 0) -> tuple[list[str], dict[str, int]]:
    """(what is said, how often each operation of the steps taken is in the trace); step t has an operation of its own.

    Args:
        folder: for output.
        steps: to profile.
        taken: by this run, from the first on; it then ends.
        rank: of two, on a map that exchanges them.
    """
    grid = Grid(toy_map(2, 1, [[1], [0]]), rank, torch.device("cpu"), 30.0)
    profiler = Profiler(named_steps(TrainingArguments(profile_steps=steps), "profile_steps"), folder, grid)
    for step in taken:
        profiler.reach(step)
        with torch.profiler.record_function(f"step {step}"):
            torch.ones(8) + 1
    lines = profiler.end(taken[-1])
    path = folder / FOLDER / f"rank-{1 - rank}.json.gz"
    if not path.is_file():
        return lines, {}
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    return lines, {name: names.count(name) for name in names if name.startswith("step ")}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("steps", "taken", "expected"),
    [
        ("3-4", range(1, 7), [3, 4]),
        ("3", range(1, 7), [3]),
        ("1", range(1, 3), [1]),
        ("5-6", range(1, 7), [5, 6]),  # to the end of the run
        ("3-9", range(1, 5), [3, 4]),  # which a signal has ended early
        ("3-5", range(5, 9), [5]),  # resumed in the midst of it
        ("3-5", range(6, 9), []),  # and behind it
        (None, range(1, 4), []),
    ],
)
def test_these_steps_and_no_others(
    tmp_path: Path, steps: str | None, taken: range, expected: list[int], rank: int
) -> None:
    lines, found = _run(tmp_path, steps, taken, rank)
    assert found == {f"step {step}": 1 for step in expected}
    assert bool(lines) == bool(expected)
    if expected:
        said = f"steps {expected[0]} to {expected[-1]}"
        assert lines[0] == f"profile: {tmp_path / FOLDER} ({said}, a file per rank, for Perfetto)"
        assert lines[1].startswith(f"operations of rank {1 - rank} (stage {rank}, replica 0)")
        assert any("aten::add" in line for line in lines[2:]) and "Self CPU" in "".join(lines)


def test_the_table_is_by_self_time(tmp_path: Path) -> None:
    profiler = Profiler(range(1, 2), tmp_path, Grid(ONE, 0, torch.device("cpu"), 30.0))
    profiler.reach(1)
    large = torch.ones(700, 700)
    for _ in range(3):
        (large @ large).add_(1)
    lines = profiler.end(1)
    operations = [line.split()[0] for line in lines if line.strip().startswith("aten::")]
    assert operations[0] == "aten::mm" and len(operations) <= 12


def test_a_trace_that_cannot_be_written_ends_no_job(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file")
    lines, _ = _run(tmp_path, "1-2", range(1, 5))
    assert "could not be written" in lines[0] and "aten::add" in "".join(lines)
