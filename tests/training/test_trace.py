"""Traces: what is written is read again, drawn, and measured through `ds-bert timeline`."""

import json
from pathlib import Path

import pytest

from ds_bert.cli import main
from ds_bert.engine.timeline import Span
from ds_bert.training.trace import idle_between_batches, last_training_step, read_trace, write_trace


def spans(rank: int, steps: int = 5) -> list[Span]:
    """Per step of ten seconds: four seconds forward, four backward, an evaluation at the end."""
    begins = [1000.0 + 10.0 * step + rank / 10 for step in range(steps)]
    computed = [
        span
        for step, begin in enumerate(begins)
        for span in (
            Span("forward", step, step, begin, begin + 4.0),
            Span("wait", step, step, begin + 4.0, begin + 5.0),
            Span("backward", step, step, begin + 5.0, begin + 9.0),
        )
    ]
    return [*computed, Span("evaluate", steps, 0, 1100.0, 1101.0)]


def test_round_trip_and_format(tmp_path: Path) -> None:
    path = write_trace(tmp_path, [spans(0), spans(1)], [0, 1])
    ranks, stages = read_trace(tmp_path)
    assert stages == [0, 1] and last_training_step(ranks) == 4
    for written, read in zip((spans(0), spans(1)), ranks, strict=True):
        for one, other in zip(written, read, strict=True):
            assert (one.kind, one.step, one.micro_batch) == (other.kind, other.step, other.micro_batch)
            assert other.begin == pytest.approx(one.begin - 1000.0, abs=1e-6)
            assert other.end == pytest.approx(one.end - 1000.0, abs=1e-6)
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X"} and {event["pid"] for event in events} == {0, 1}


def test_idle_time_between_global_batches() -> None:
    assert idle_between_batches(spans(0)) == [pytest.approx((1.0, 10.0))] * 3


def test_the_command_draws_and_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_trace(tmp_path, [spans(0), spans(1)], [0, 1])
    assert main(["timeline", str(tmp_path), "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "rank 1, stage 1: busy 82.8%" in printed and "idles for 10.00%" in printed and "steps 2 to 3" in printed
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("flags", [["--step", "9"], ["--steps", "0"], ["--step", "-1"]])
def test_steps_that_are_not_there(tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_trace(tmp_path, [spans(0)], [0])
    assert main(["timeline", str(tmp_path), *flags]) == 2
    assert "has steps 0 to 4" in capsys.readouterr().err


def test_a_run_without_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["timeline", str(tmp_path)]) == 2
    assert "--trace" in capsys.readouterr().err
    (tmp_path / "trace.json").write_text('{"traceEvents": [{}]}')
    assert main(["timeline", str(tmp_path)]) == 2
