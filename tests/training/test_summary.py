"""What is said of a run's speed is what its processes measured."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.engine.timeline import Timeline
from ds_bert.stage_map import StageMap
from ds_bert.training.lifecycle import summarize, summary_lines
from ds_bert.training.loop import Outcome
from ds_bert.training.meter import Meter, Workload
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map


def _summary(stage_map: StageMap, schedule: Any) -> dict[str, Any]:
    """Of 10 s in which rank r of four computed r + 1 seconds and sent 100 r bytes."""
    grid = start_process_group(stage_map, timeout_seconds=30)
    engine = SimpleNamespace(
        grid=grid,
        control=grid.new_group(backend="gloo"),
        execution=SimpleNamespace(transport=SimpleNamespace(bytes_sent=100 * grid.rank)),
        settings=EngineSettings(schedule=schedule),
        timeline=Timeline(torch.device("cpu")),
        optimizer=SimpleNamespace(frozen={}),
    )
    meter = Meter(cast(Any, engine), Workload(6.0, flops=1e9), peak_tflops=0.01)
    return summarize(cast(Any, engine), Outcome(10.0, 80, grid.rank + 1.0), 3, meter)


@pytest.mark.parametrize(("schedule", "idle_in_theory"), [("1f1b", 0.25), ("2bw", 0.0)])
def test_shares_are_means_over_replicas_and_bytes_are_sums(schedule: str, idle_in_theory: float) -> None:
    for found in run_on_ranks(_summary, 4, toy_map(2, 2), schedule):
        assert found["samples_per_second"] == 8.0 and found["tokens_per_second"] == 48.0
        assert found["tokens_per_second_per_rank"] == 12.0
        assert found["share_of_peak"] == pytest.approx(8e9 / 4e10)
        assert "8.0 samples/s, 48 tokens/s (12 per rank; 20.0% of the peak FLOP/s)" in summary_lines(found)[0]
        assert found["busy_share_per_stage"] == pytest.approx([0.15, 0.35])
        assert found["bubble_share"] == pytest.approx(0.75)
        assert found["bubble_share_even_cut"] == idle_in_theory
        assert found["bytes_sent"] == 600
        assert len(found["peak_memory_per_stage"]) == 2 and min(found["peak_memory_per_stage"]) > 2**20


def test_only_computing_counts_as_busy() -> None:
    timeline, kinds = Timeline(torch.device("cpu"), range(500, 501)), ("forward", "wait", "backward", "reduce", "step")
    timeline.step = 500
    for kind in kinds:
        with timeline.span(kind):
            torch.ones(64, 64) @ torch.ones(64, 64)
    assert [span.kind for span in timeline.spans] == list(kinds) and {span.step for span in timeline.spans} == {500}
    computed = [span.end - span.begin for span in timeline.spans if span.kind in ("forward", "backward")]
    assert timeline.busy_seconds == pytest.approx(sum(computed))
