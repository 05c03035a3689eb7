"""What each process measures reaches all of them, at its place; the log's figures are those since its last entry."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.meta.task import TaskBatches
from ds_bert.stage_map import StageMap
from ds_bert.training.meter import Meter, Workload
from tests.support.meters import fake_engine, meter_of
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map
from tests.support.training import Case, build_engine, micro_batches

PERMUTED = toy_map(2, 2, [[3, 1], [0, 2]])
BATCHES = [MicroBatch(0, (2, 8, 1)), MicroBatch(1, (2, 5, 0))]  # 26 tokens


def _add(*votes: list[float]) -> list[float]:
    return [sum(column) for column in zip(*votes, strict=True)]


def _after(meters: list[Meter], steps: int, computed: dict[int, float]) -> list[str]:
    """What rank 0 says of steps in each of which a rank computed so many seconds, others one."""
    sentences = []
    for step in range(1, steps + 1):
        sums = _add(*(meter.votes(BATCHES) for meter in meters))
        sentences += meters[0].note(step, sums)
        for rank, meter in enumerate(meters):
            meter.timeline.busy_seconds += computed.get(rank, 1.0)
    return sentences


def test_a_slow_rank_is_named_as_people_know_it() -> None:
    meters = [meter_of(fake_engine(PERMUTED, rank)) for rank in range(4)]
    assert _after(meters, 20, {2: 2.5}) == [
        "step 7: rank 0 (stage 1, replica 0) on node2 is slow: for 5 steps it has computed over 1.5 times, now 2.5 "
        "times, as long as the other replicas of its stage"
    ]


def test_the_first_step_which_warms_up_is_not_judged() -> None:
    meters = [meter_of(fake_engine(toy_map(1, 2), rank)) for rank in range(2)]
    first = [meter.votes(BATCHES) for meter in meters]
    meters[0].timeline.busy_seconds = 1000.0
    second = [meter.votes(BATCHES) for meter in meters]
    meters[0].timeline.busy_seconds = 1002.6
    third = [meter.votes(BATCHES) for meter in meters]
    assert [votes[0] for votes in (first[0], second[0])] == [0.0, 0.0]
    assert third[0][0] == pytest.approx(0.1) and third[1][3] == 0.0


def test_seconds_are_per_token_so_that_longer_sequences_are_not_slow() -> None:
    task = TaskBatches(0, 2, [MicroBatch(0, (2, 8, 1)), MicroBatch(0, (2, 5, 0))], MicroBatch(0, (1, 26, 0)))
    meter = meter_of(fake_engine())
    for batches, seconds in ((BATCHES, 0.0), (BATCHES, 26.0), ([task], 104.0), ([], 1.0)):
        meter.votes(batches)
        meter.timeline.busy_seconds += seconds
    rates = []
    for batches, seconds in ((BATCHES, 52.0), ([task], 104.0), ([], 0.0)):
        rates.append(meter.votes(batches)[0])
        meter.timeline.busy_seconds += seconds
    assert rates == [0.0, 2.0, 2.0]  # nothing is known of no batches


def test_speeds_are_means_since_the_last_entry() -> None:
    meter = meter_of(fake_engine(toy_map(2, 1)), Workload(10.0, 4e9), peak_tflops=0.5)
    meter.took(8, 1.0)
    assert meter.entry()["samples_per_second"] == 8.0
    for samples, seconds in ((8, 1.0), (8, 2.0), (0, 1.0)):  # the last one is a drain
        meter.took(samples, seconds)
    found = meter.entry()
    assert {key: value for key, value in found.items() if not key.startswith("memory")} == {
        "samples_per_second": 4.0,
        "tokens_per_second": 40.0,
        "tokens_per_second_per_rank": 20.0,
        "share_of_peak": pytest.approx(4.0 * 4e9 / (2 * 0.5e12)),
    }
    assert not [key for key in meter.entry() if not key.startswith("memory")]  # nothing was done since


@pytest.mark.parametrize(
    ("work", "tflops", "frozen"),
    [(Workload(1.0), 1.0, {}), (Workload(1.0, 1.0), 0.0, {}), (Workload(1.0, 1.0), 1.0, {"a": 1})],
)
def test_no_share_is_told_where_it_is_not_known(work: Workload, tflops: float, frozen: dict[str, int]) -> None:
    """Without FLOPs, without a peak, or where parts of the model have no backward."""
    engine = fake_engine()
    engine.optimizer.frozen = frozen
    assert "share_of_peak" not in meter_of(engine, work, tflops).speeds(1, 1.0)


class _Device:
    """torch.cuda's accounts of memory."""

    def __init__(self) -> None:
        self.now, self.peak, self.retries = 0, 0, 0

    def hold(self, size: int) -> None:
        self.now, self.peak = size, max(self.peak, size)

    def reset(self, device: Any) -> None:
        self.peak = self.now


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Device]:
    device = _Device()
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: device.peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", device.reset)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda _: {"num_alloc_retries": device.retries})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    return device


def test_a_device_s_peak_is_that_since_the_last_entry_and_the_summary_s_that_of_all_time(cuda: _Device) -> None:
    meter, entries = meter_of(fake_engine(device="cuda:0")), []
    for step, held in enumerate([(300, 100), (900, 100), (200, 100), (250, 100)], 1):
        meter.note(step, meter.votes(BATCHES))
        for size in held:
            cuda.hold(size)
        if step % 2 == 0:
            entries.append(meter.entry()["memory_stage_0"])
    assert entries == [300.0, 900.0]  # of the steps before each entry's own
    cuda.hold(400)
    assert meter.peak_memory() == 900


def test_the_largest_replica_stands_for_its_stage(cuda: _Device) -> None:
    meters, votes = [meter_of(fake_engine(PERMUTED, rank, "cuda:0")) for rank in range(4)], []
    for meter, size in zip(meters, (10, 40, 30, 20), strict=True):
        cuda.now = cuda.peak = size
        votes.append(meter.votes(BATCHES))
    meters[0].note(1, _add(*votes))
    assert meters[0].entry() == {"memory_stage_0": 40.0, "memory_stage_1": 30.0}


@pytest.mark.parametrize("before", [0, 7])
def test_an_allocator_that_runs_short_is_told_of_once(cuda: _Device, before: int) -> None:
    """What was short before training, when the model was built, does not count."""
    cuda.retries = before
    meters = [meter_of(fake_engine(PERMUTED, rank, "cuda:0")) for rank in range(4)]
    assert _after(meters, 3, {}) == []
    for step in (4, 5):
        votes = [meter.votes(BATCHES) for meter in meters[:3]]
        cuda.retries += 1
        told = meters[0].note(step, _add(*votes, meters[3].votes(BATCHES)))
        assert len(told) == (step == 4)
        if told:
            assert told[0].startswith("step 4: rank 2 (stage 1, replica 1) on node3 ran short of device memory")
            assert "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in told[0]


@pytest.mark.parametrize(
    ("settings", "peak"),
    [
        ({"precision": "bf16"}, 312e12),
        ({"tf32": True}, 156e12),
        ({"tf32": False}, 19.5e12),
        ({"precision": "fp64"}, None),
    ],
)
def test_a_device_s_peak_is_looked_up_for_the_precision(cuda: _Device, settings: Any, peak: float | None) -> None:
    meter = meter_of(fake_engine(toy_map(1, 2), 0, "cuda:0", **settings), Workload(1.0, 1.0))
    assert meter.peak == (peak and 2 * peak)
    assert meter_of(fake_engine(device="cuda:0", **settings), Workload(1.0, 1.0), peak_tflops=7.0).peak == 7e12


def _train(stage_map: StageMap) -> tuple[list[dict[str, float]], list[float]]:
    """(entries of three steps, the third step's figures) on one of real processes."""
    grid = start_process_group(stage_map, timeout_seconds=30)
    case = Case(EngineSettings("sgd"), micro_batch_size=2)
    engine = build_engine(grid, stage_map.cuts, case)
    meter, entries, figures = Meter(engine, Workload(16.0)), [], []
    ballast = bytearray(2**26 * (grid.rank == 3))
    for step in range(3):
        batches = micro_batches(grid, case.batch(step), 2)
        (result,) = engine.train_batch(batches, 0.1, votes=meter.votes(batches))
        meter.took(8, 1.0)
        figures = result.sums[len(engine.objective.sums) :].tolist()
        meter.note(step + 1, figures)
        entries.append(meter.entry())
    assert len(ballast) < 2**27
    return entries, figures


def test_all_processes_know_what_each_has_measured() -> None:
    found = run_on_ranks(_train, 4, PERMUTED)
    assert all(result == found[0] for result in found)
    entries, figures = found[0]
    assert all(seconds > 0 for seconds in figures[0::3]) and figures[2::3] == [0.0] * 4
    memory = figures[1::3]
    assert min(memory) > 2**24 and max(memory) == memory[3] > memory[2] + 2**25  # rank 3 of the grid has the ballast
    assert entries[2]["memory_stage_0"] == max(memory[:2]) and entries[2]["memory_stage_1"] == memory[3]
    assert entries[2]["tokens_per_second_per_rank"] == 8 * 16 / 4
