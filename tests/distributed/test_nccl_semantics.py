"""Nothing hangs where NCCL and CUDA block, and gloo and CPUs do not; each remedy taken away, it does."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest

from ds_bert.engine import engine as engine_module
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.meta.task import Learner, Method, task_passes
from ds_bert.modeling.adapters import Selection
from ds_bert.stage_map import StageMap
from tests.support.meta import MetaCase, meta_config, meta_engine, tasks_of
from tests.support.nccl import Hang, Nccl
from tests.support.processes import run_on_ranks
from tests.support.remedies import (
    nothing,
    with_a_clock_that_starts_late,
    with_one_group_for_both_directions,
    without_connecting,
)
from tests.support.toy import global_batch, toy_map
from tests.support.training import Case, build_engine, micro_batches

SCHEDULES = ("1f1b", "gpipe", "2bw")
PATIENCE = 3.0
"""Seconds; a rank that waits longer counts as hung."""


def _case(schedule: str, stages: int) -> Case:
    return Case(EngineSettings("sgd", seed=1), micro_batch_size=1, steps=4).change(schedule=schedule)


def _train(stage_map: StageMap, schedules: tuple[str, ...], begin_by_evaluating: bool, patience: float) -> list[int]:
    """Steps whose results were returned, per schedule; evaluation, prediction and drains come in between."""
    nccl, found = Nccl(patience), []
    with nccl.emulated():
        grid = start_process_group(stage_map, timeout_seconds=max(patience, 6.0))  # to meet may take longer
        for schedule in schedules:
            case = _case(schedule, stage_map.num_stages)
            engine = build_engine(grid, stage_map.cuts, case)
            nccl.watch(engine)
            results: list[Any] = []
            for step in range(case.steps):
                if step == 2 or begin_by_evaluating:
                    results += engine.drain()
                    # Not as many micro-batches as replicas, nor as many on each.
                    engine.evaluate(micro_batches(grid, global_batch(step, rows=3), 2))
                    engine.predict(micro_batches(grid, global_batch(step, rows=1), 2))
                results += engine.train_batch(micro_batches(grid, case.batch(step), 1), 0.1)
            results += engine.drain()
            assert nccl.waits_for_device > 0
            found.append(len(results))
    return found


@pytest.mark.parametrize("begin_by_evaluating", [False, True])
@pytest.mark.parametrize(
    ("stages", "replicas"), [(1, 2), (2, 1), (2, 2), (3, 1), pytest.param(4, 1, marks=pytest.mark.slow)]
)
def test_no_schedule_hangs(stages: int, replicas: int, begin_by_evaluating: bool) -> None:
    found = run_on_ranks(
        _train, stages * replicas, toy_map(stages, replicas), SCHEDULES, begin_by_evaluating, 20.0, timeout=120
    )
    assert found == [[4, 4, 4]] * (stages * replicas)


def _meta(stage_map: StageMap, case: MetaCase, patience: float) -> int:
    nccl = Nccl(patience)
    with nccl.emulated():
        grid = start_process_group(stage_map, timeout_seconds=max(patience, 6.0))  # to meet may take longer
        engine = meta_engine(grid, case, EngineSettings("sgd"))
        nccl.watch(engine)
        return sum(len(engine.train_batch(tasks_of(grid, case.tasks), 0.1)) for _ in range(2))


@pytest.mark.parametrize(("stages", "replicas", "tasks_in_flight"), [(2, 1, 1), (2, 1, 2), (2, 2, 2), (3, 1, 3)])
def test_meta_training_does_not_hang(stages: int, replicas: int, tasks_in_flight: int) -> None:
    learner = Learner(task_passes(3, 1, 0), Method(), Selection(), tasks_in_flight=tasks_in_flight)
    case = MetaCase(meta_config(False), learner, num_tasks=replicas * 6, num_batches=3, precision="fp32")
    found = run_on_ranks(_meta, stages * replicas, toy_map(stages, replicas), case, 20.0, timeout=120)
    assert found == [2] * (stages * replicas)


def _without_warm_up() -> Any:
    return mock.patch.object(engine_module, "warm_up", nothing)


REMEDIES: dict[str, Callable[[], Any]] = {
    "none taken away": nullcontext,
    "channels connect before receives are posted": without_connecting,
    "kernels are loaded before receives are posted": _without_warm_up,
    "the clock starts before receives are posted": with_a_clock_that_starts_late,
    "each direction has a group of its own": with_one_group_for_both_directions,
}


QUICK = list(REMEDIES)[:2]
HANGS = [
    (remedy, name) if remedy in QUICK and name == "1f1b" else pytest.param(remedy, name, marks=pytest.mark.slow)
    for remedy in REMEDIES
    for name in SCHEDULES
]


def _train_without(remedy: str, stage_map: StageMap, schedule: str) -> str:
    try:
        with REMEDIES[remedy]():
            _train(stage_map, (schedule,), False, PATIENCE)
    except (Hang, RuntimeError) as error:  # who is waited for by one that hangs is told so by gloo
        return type(error).__name__
    return ""


@pytest.mark.parametrize(("remedy", "schedule"), HANGS)
def test_without_its_remedy_a_step_hangs(remedy: str, schedule: str) -> None:
    found = run_on_ranks(_train_without, 2, remedy, toy_map(2, 1), schedule, timeout=60)
    assert ("Hang" in found) == (remedy != "none taken away"), found
