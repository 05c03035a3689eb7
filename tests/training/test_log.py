"""The log of a run: JSON lines and TensorBoard on rank 0, nothing elsewhere; resuming takes steps back."""

import fcntl
import os
import pty
import select
import struct
import termios
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from ds_bert.training.log import RunLog, read_log


def write(folder: Path, steps: range, value: float, first_step: int = 0) -> None:
    log = RunLog(folder, True, first_step, 10, show_bar=False)
    for step in steps:
        log.progress(value, 1.0)
        log.record(step, {"loss": value})
    log.close()


def shown(folder: Path) -> dict[int, float]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("train/loss")}


def test_entries(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4), 2.5)
    entries = read_log(tmp_path)
    assert [(entry["step"], entry["train/loss"]) for entry in entries] == [(1, 2.5), (2, 2.5), (3, 2.5)]
    assert entries == sorted(entries, key=lambda entry: entry["time"])
    assert shown(tmp_path) == {1: 2.5, 2: 2.5, 3: 2.5}


def test_a_resumed_run_replaces_the_steps_that_it_takes_again(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6), 2.0)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 6, "train/lo')  # killed while writing
    write(tmp_path, range(4, 8), 1.0, first_step=3)
    expected = {1: 2.0, 2: 2.0, 3: 2.0, 4: 1.0, 5: 1.0, 6: 1.0, 7: 1.0}
    assert {entry["step"]: entry["train/loss"] for entry in read_log(tmp_path)} == expected
    assert shown(tmp_path) == expected


def test_other_ranks_and_runs_without_a_folder_keep_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    for folder, is_main in ((tmp_path, False), (None, True)):
        log = RunLog(folder, is_main, 0, 10, show_bar=False)
        log.record(1, {"loss": 1.0})
        log.progress(1.0, 1.0)
        log.close()
    assert not list(tmp_path.iterdir()) and read_log(tmp_path) == []
    RunLog(tmp_path, False, 0, 10).say("not here")
    assert capfd.readouterr() == ("", "")


VALUES = {"loss": 1.23456, "learning_rate": 9.1234e-5}


def shown_where(
    stderr: TextIO, monkeypatch: pytest.MonkeyPatch, is_main: bool = True, show_bar: bool = True
) -> Callable[[], None]:
    """Log a step of a run that has done 3 of 5 and has a bar on ``stderr``; return what ends the log."""
    monkeypatch.setattr("sys.stderr", stderr)
    log = RunLog(None, is_main, 3, 5, show_bar)
    log.progress(1.2345, 67.8)
    log.report(4, VALUES | {"samples_per_second": 67.8})
    log.say("in between")
    return log.close


def test_a_terminal_has_a_bar_with_loss_and_speed_and_no_lines(
    capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))  # lines and columns
    with open(end, "w") as stderr:
        shown_where(stderr, monkeypatch)()
        stderr.flush()
        bar = os.read(terminal, 10000).decode()
    os.close(terminal)
    assert "4/5" in bar and "loss 1.234, 67.8 samples/s" in bar
    assert capfd.readouterr().out == "in between\n"


@pytest.mark.parametrize("on_terminal", [False, True], ids=["a file", "--disable_tqdm"])
@pytest.mark.parametrize("is_main", [True, False])
def test_elsewhere_rank_0_prints_lines(
    capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on_terminal: bool, is_main: bool
) -> None:
    terminal, end = pty.openpty()
    with open(end, "w") if on_terminal else open(tmp_path / "stderr", "w+") as stderr:
        shown_where(stderr, monkeypatch, is_main, show_bar=not on_terminal)()
        stderr.flush()
        assert not select.select([terminal], [], [], 0)[0] and (on_terminal or not stderr.tell())
    line = "step 4/5: loss 1.2346, learning rate 9.12e-05, 67.8 samples/s, 00:00 left\nin between\n"
    assert capfd.readouterr().out == (line if is_main else "")


def test_lines_are_flushed_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(tmp_path / "out", "w") as stdout, open(tmp_path / "err", "w") as stderr:
        monkeypatch.setattr("sys.stdout", stdout)
        close = shown_where(stderr, monkeypatch)
        assert (tmp_path / "out").read_text().endswith(" left\nin between\n")
        close()


def test_the_time_left_is_reckoned_without_the_first_line(
    capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 100.0, 109.0, 136.0, 146.0])  # a slow first step, then 1 s a step, 3 s a step, 2 s
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    log = RunLog(None, True, 20, 100, show_bar=False)
    for step in (21, 30, 39, 44):
        log.report(step, VALUES)
    seconds = [100 * 79, 1 * 70, 2 * 61, 2 * 56]
    left = [line.split(", ")[-1] for line in capfd.readouterr().out.splitlines()]
    assert left == [f"{tqdm.format_interval(value)} left" for value in seconds]
