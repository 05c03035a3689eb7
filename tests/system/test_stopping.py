"""A job that is asked to stop, loses a process, or meets numbers that are not finite."""

import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ds_bert.checkpoint.folders import checkpoints
from ds_bert.training.log import read_log
from tests.support.jobs import Pretraining, pretrain, wait_for
from tests.support.processes import Failed, Returned

SECONDS = 25


@pytest.fixture
def words(tmp_path: Path, prepared: Path, model: Path) -> list[Any]:
    return [
        *("--config_name", model, "--train_path", prepared, "--output_dir", tmp_path / "out", "--max_seq_length", 32),
        *("--max_predictions_per_seq", 5, "--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2),
        *("--num_stages", 2, "--logging_steps", 1, "--save_steps", 0, "--disable_tqdm", "--max_steps", 100000),
    ]


def under_way(folder: Path, words: list[Any]) -> Pretraining:
    run = Pretraining(folder / "run", words, 2)
    wait_for(lambda: len(read_log(folder / "out")) >= 3)
    return run


def test_a_stop_request_is_saved_in_time(tmp_path: Path, words: list[Any]) -> None:
    run = under_way(tmp_path, words)
    begin = time.monotonic()
    run.signal(1, signal.SIGTERM)
    outcomes = run.wait()
    assert time.monotonic() - begin < SECONDS
    assert all(isinstance(end, Returned) and end.value.status == 128 + signal.SIGTERM for end in outcomes.values())
    (checkpoint,) = checkpoints(tmp_path / "out")
    last = read_log(tmp_path / "out")[-1]["step"]
    assert checkpoint.name == f"checkpoint-{last}"


def test_nobody_saves_when_a_peer_is_dead(tmp_path: Path, words: list[Any]) -> None:
    run = under_way(tmp_path, words)
    run.signal(1, signal.SIGKILL)
    run.signal(0, signal.SIGTERM)
    outcomes = run.wait()
    assert all(isinstance(end, Failed) for end in outcomes.values()), outcomes
    assert not list((tmp_path / "out").glob("*checkpoint*"))
    said = re.findall(r"^error: (.*)", run.printed(), re.MULTILINE)
    assert len(said) == 1 and "rank 1 (stage 1, replica 0), after step" in said[0], said


def test_so_many_steps_are_skipped_then_their_batches_are_named(tmp_path: Path, words: list[Any]) -> None:
    """A learning rate that no weights survive: the first step leaves numbers that overflow in every later one."""
    flags = ["--learning_rate", 1e30, "--lr_scheduler_type", "constant", "--max_skipped_steps", 2, "--max_grad_norm", 0]
    run = Pretraining(tmp_path / "run", [*words, *flags], 2)
    outcomes = run.wait()
    printed = run.printed()
    statuses = [end.value.status if isinstance(end, Returned) else str(end) for end in outcomes.values()]
    assert set(statuses) <= {1, "died with exit code 1"}, statuses  # who hears of the other's end is ended by it
    assert "Traceback" not in printed
    said = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(said) == 2 and {line.split()[2] for line in said} == {"0", "1"}, printed
    assert all(
        "training has diverged at global batch 1, 2, 3 (counted from 0; --max_skipped_steps is 2)" in line
        for line in said
    )
    assert len(re.findall(r"^step [23]: .*; the step is skipped", printed, re.MULTILINE)) == 2
    assert not checkpoints(tmp_path / "out")


def test_by_default_the_first_ends_it(tmp_path: Path, words: list[Any]) -> None:
    flags = ["--num_stages", 1, "--learning_rate", 1e30, "--lr_scheduler_type", "constant", "--max_grad_norm", 0]
    (ended,) = pretrain(tmp_path / "run", [*words, *flags])
    assert ended.status == 1
    assert "diverged at global batch 1 (counted from 0" in (tmp_path / "run" / "0.err.txt").read_text()
