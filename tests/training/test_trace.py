"""Traces: what is written is read again, drawn, and measured through `ds-bert timeline`."""

import json
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ds_bert.cli import main
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.engine.timeline import Span, Timeline
from ds_bert.stage_map import StageMap
from ds_bert.training.trace import draw_schedule, idle_between_batches, read_trace, training_steps, write_trace
from tests.support.checkpoints import toy_engine, train
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map


def spans(rank: int, steps: range = range(1, 6)) -> list[Span]:
    """Per step of ten seconds: four seconds forward, four backward, an evaluation at the end."""
    computed = [
        span
        for step in steps
        for begin in [1000.0 + 10.0 * (step - steps[0]) + rank / 10]
        for span in (
            Span("forward", step, step, begin, begin + 4.0),
            Span("wait", step, step, begin + 4.0, begin + 5.0),
            Span("backward", step, step, begin + 5.0, begin + 9.0),
        )
    ]
    return [*computed, Span("evaluate", steps[-1], 0, 1100.0, 1101.0)]


def test_round_trip_and_format(tmp_path: Path) -> None:
    path = write_trace(tmp_path, [spans(0), spans(1)], [0, 1])
    ranks, stages = read_trace(tmp_path)
    assert stages == [0, 1] and training_steps(ranks) == range(1, 6)
    for written, read in zip((spans(0), spans(1)), ranks, strict=True):
        for one, other in zip(written, read, strict=True):
            assert (one.kind, one.step, one.micro_batch) == (other.kind, other.step, other.micro_batch)
            assert other.begin == pytest.approx(one.begin - 1000.0, abs=1e-6)
            assert other.end == pytest.approx(one.end - 1000.0, abs=1e-6)
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X"} and {event["pid"] for event in events} == {0, 1}


def test_idle_time_between_global_batches() -> None:
    assert idle_between_batches(spans(0), range(1, 6)) == [pytest.approx((1.0, 10.0))] * 3


@pytest.mark.parametrize("first", [1, 41])
def test_the_command_draws_and_measures(tmp_path: Path, first: int, capsys: pytest.CaptureFixture[str]) -> None:
    steps = range(first, first + 5)
    write_trace(tmp_path, [spans(0, steps), spans(1, steps)], [0, 1])
    assert main(["timeline", str(tmp_path), "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    # In the inner three of five steps of 10 s: 24 s of computing from the first's begin to the last's end, 29 s.
    assert f"rank 1, stage 1: busy 82.8% of steps {first + 1} to {first + 3}" in printed
    assert "idles for 10.00%" in printed and f"timeline.png: steps {first + 2} to {first + 3}" in printed
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("count", [1, 8, 100, 1000])
def test_numbers_stand_in_their_boxes(tmp_path: Path, count: int, figures: list[Figure]) -> None:
    ends = np.cumsum(1.05 ** (np.arange(count) % 60))
    boxes = [Span("forward", 1, n, end - 1.05 ** (n % 60), end) for n, end in enumerate(ends.tolist())]
    draw_schedule(tmp_path / "schedule.png", [boxes], [0], 1, 1)
    FigureCanvasAgg(figures[0]).draw()
    (axes,) = figures[0].axes
    texts = {int(text.get_text()): text.get_window_extent() for text in axes.texts}
    bars = [bar.get_window_extent() for bar in axes.patches]
    assert len(bars) == count and all(bars[n].x0 <= box.x0 and box.x1 <= bars[n].x1 for n, box in texts.items())
    assert len(texts) == count if count <= 8 else 0 < len(texts) < count or count == 1000


def test_a_trace_of_one_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_trace(tmp_path, [spans(0, range(7, 8))], [0])
    assert main(["timeline", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "busy 88.9% of step 7" in printed and "timeline.png: step 7" in printed and "idles" not in printed


@pytest.mark.parametrize("flags", [["--step", "6"], ["--step", "0"], ["--steps", "0"], ["--step", "-1"]])
def test_steps_that_are_not_there(tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_trace(tmp_path, [spans(0)], [0])
    assert main(["timeline", str(tmp_path), *flags]) == 2
    assert "has steps 1 to 5" in capsys.readouterr().err


def test_a_run_without_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["timeline", str(tmp_path)]) == 2
    assert "--trace" in capsys.readouterr().err
    (tmp_path / "trace.json").write_text('{"traceEvents": [{}]}')
    assert main(["timeline", str(tmp_path)]) == 2
    (tmp_path / "trace.json").write_text('{"traceEvents": []}')
    assert main(["timeline", str(tmp_path)]) == 2
    assert "has no training step" in capsys.readouterr().err


def _run(timeline: Timeline, steps: int) -> None:
    """Eight micro-batches a step, and an evaluation of four after every tenth."""
    for step in range(1, steps + 1):
        for number in range(8):
            for kind in ("wait", "forward", "send", "backward"):
                with timeline.span(kind, number, step):
                    pass
        timeline.end_step(step)
        for number in range(4 if step % 10 == 0 else 0):
            with timeline.span("evaluate", number):
                pass


@pytest.mark.parametrize(
    ("traced", "expected"),
    [
        (10, range(291, 301)),
        (1, [300]),
        (500, range(1, 301)),
        (range(3, 7), range(3, 7)),
        (range(298, 400), range(298, 301)),
        (range(20, 21), [20]),
        (0, []),
    ],
)
def test_only_the_steps_that_are_traced_are_kept(traced: range | int, expected: list[int]) -> None:
    timeline = Timeline(torch.device("cpu"), traced)
    _run(timeline, 300)
    counts = {
        step: [span.step for span in timeline.spans].count(step) for step in {span.step for span in timeline.spans}
    }
    assert counts == {step: 32 + 4 * (step % 10 == 0) for step in expected}
    assert all(before.begin <= after.begin for before, after in pairwise(timeline.spans))
    assert timeline.busy_seconds > 0


@pytest.mark.parametrize(("traced", "measured"), [(0, False), (range(5, 6), False), (1, True), (range(1, 2), True)])
def test_what_is_not_traced_is_not_measured_either(
    traced: range | int, measured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But computing, which every run sums up: on a GPU, each measurement is two events in the queue."""
    timeline = Timeline(torch.device("cpu"), traced)
    kinds: list[str] = []
    monkeypatch.setattr(timeline, "_add", lambda kind, *_: kinds.append(kind))
    for kind in ("forward", "send", "wait", "reduce", "backward"):
        with timeline.span(kind, 0, step=1):  # the first step, which has not ended yet
            pass
    assert kinds == (["forward", "send", "wait", "reduce", "backward"] if measured else ["forward", "backward"])


@pytest.mark.parametrize("traced", [10, range(5, 15), 0])
def test_memory_does_not_grow_with_the_run(traced: range | int) -> None:
    timeline = Timeline(torch.device("cpu"), traced)
    _run(timeline, 20)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        _run(timeline, 1500)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 200_000  # 1,500 steps have 48,000 spans of 100 bytes and more


def _traced(stage_map: StageMap, settings: EngineSettings, steps: int, drained: int) -> list[Span]:
    """What a rank keeps of a toy's training that is drained, as for an evaluation, after a step in its midst."""
    engine = toy_engine(start_process_group(stage_map, 30), settings)
    train(engine, 0, drained)
    train(engine, drained, steps)
    return engine.timeline.spans


@pytest.mark.parametrize(
    ("schedule", "shape", "traced", "expected"),
    [
        ("1f1b", (2, 1), range(3, 6), [3, 4, 5]),
        ("gpipe", (2, 1), 2, [7, 8]),
        ("2bw", (2, 1), range(3, 6), [3, 4, 5]),
        ("2bw", (2, 1), 3, [6, 7, 8]),
        ("2bw", (2, 1), range(8, 9), [8]),
        ("2bw", (2, 2), range(1, 3), [1, 2]),
    ],
)
def test_a_micro_batch_belongs_to_the_step_that_it_leads_to(
    schedule: str, shape: tuple[int, int], traced: range | int, expected: list[int]
) -> None:
    """Also under 2BW, where the next step's forwards begin before this step's backwards have ended."""
    settings = EngineSettings(schedule=schedule, traced=traced)  # type: ignore[arg-type]
    ranks = run_on_ranks(_traced, shape[0] * shape[1], toy_map(*shape), settings, 8, 4)
    count = 4 // shape[1]  # micro-batches of a step
    for rank, kept in enumerate(ranks):
        assert {span.step for span in kept} == set(expected)
        for step in expected:
            of_step = [span for span in kept if span.step == step]
            first = (step - 1) * count if schedule == "2bw" else 0
            for kind in ("forward", "backward", "wait", "send"):
                numbers = sorted(span.micro_batch for span in of_step if span.kind == kind)
                assert numbers == list(range(first, first + count)), (rank, step, kind)
            assert [span.kind for span in of_step if span.micro_batch < 0] == ["reduce", "step"]
    if expected == [6, 7, 8]:
        order = [span.step for span in ranks[0] if span.kind in ("forward", "backward")]
        assert order != sorted(order)  # there was an overlap
