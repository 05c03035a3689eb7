"""The log of a run: JSON lines and TensorBoard on rank 0, nothing elsewhere; resuming takes steps back."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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


def test_the_bar_shows_loss_and_speed(capfd: pytest.CaptureFixture) -> None:
    log = RunLog(None, True, 3, 5)
    log.progress(1.2345, 67.8)
    log.say("in between")
    log.close()
    captured = capfd.readouterr()
    assert "4/5" in captured.err and "loss 1.234, 67.8 samples/s" in captured.err
    assert captured.out == "in between\n"
