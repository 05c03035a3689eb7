"""A process that dies or hangs ends all the others, soon, and they say which one it was."""

import os
import re
import signal
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Literal

import pytest

from ds_bert.engine.heartbeat import Heartbeat
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.meta.few_shot import Adaptation
from ds_bert.stage_map import StageMap
from ds_bert.training.lifecycle import failing_by_name
from tests.support.few_shot import few_shot_learner
from tests.support.jobs import wait_for
from tests.support.meta import meta_config
from tests.support.processes import Failed, Ranks, Returned, run_on_ranks
from tests.support.toy import toy_map
from tests.support.training import Case, build_engine, micro_batches, poison_one_step

TIMEOUT = 8.0  # seconds; where two workers test at once, connecting alone may take some
CASE = Case(EngineSettings(), micro_batch_size=1)
STEPS = 3
# Launcher ranks that lie the wrong way round on purpose: rank 3 is stage 0, replica 0.
MAP = toy_map(2, 2, [[3, 1], [2, 0]])
PLACES = {3: "stage 0, replica 0", 1: "stage 0, replica 1", 2: "stage 1, replica 0", 0: "stage 1, replica 1"}


def _train(stage_map: StageMap, folder: Path, before_step: Callable[[int], None]) -> None:
    rank = os.environ["RANK"]
    os.dup2(os.open(folder / f"{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
    grid = start_process_group(stage_map, TIMEOUT)
    engine = build_engine(grid, stage_map.cuts, CASE)
    with failing_by_name(grid, lambda: engine.steps_done):
        for step in count():
            before_step(step)
            engine.train_batch(micro_batches(grid, CASE.batch(step), 1), 1e-3)
            if engine.steps_done == STEPS:
                (folder / f"{rank}.ready").touch()


def _train_for_ever(stage_map: StageMap, folder: Path) -> None:
    _train(stage_map, folder, lambda step: None)


def _raise_on_one_rank(stage_map: StageMap, folder: Path) -> None:
    failing = os.environ["RANK"] == "2"

    def fail(step: int) -> None:
        if failing and step == STEPS:
            raise OSError("no space left on the moon")

    _train(stage_map, folder, fail)


def _all_ready(folder: Path) -> bool:
    return len(list(folder.glob("*.ready"))) == 4


@pytest.mark.parametrize(
    ("how", "victim"),
    [
        (signal.SIGKILL, 0),  # which serves the store
        (signal.SIGKILL, 3),
        pytest.param(signal.SIGSTOP, 3, marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.slow),
    ],
)
def test_all_ranks_end_and_name_the_one_that_died_or_hangs(tmp_path: Path, how: signal.Signals, victim: int) -> None:
    with Ranks(_train_for_ever, 4, MAP, tmp_path) as ranks:
        wait_for(lambda: _all_ready(tmp_path))
        time.sleep(2 * TIMEOUT / 8)  # two beats: all know that these steps are done
        os.kill(ranks.processes[victim].pid, how)
        begin = time.monotonic()
        outcomes = ranks.wait(TIMEOUT + 10, stop_at_failure=False, among={0, 1, 2, 3} - {victim})
        assert time.monotonic() - begin < TIMEOUT + 10
        ranks.processes[victim].join(5)
        assert ranks.processes[victim].exitcode == -signal.SIGKILL  # the others ended it, not the launcher
    assert all(isinstance(outcome, Failed) and "still running" not in outcome for outcome in outcomes.values())
    for rank in outcomes:
        said = re.findall(r"^error: (.*)", (tmp_path / f"{rank}.err").read_text(), re.MULTILINE)
        assert len(said) == 1, said
        assert said[0].startswith(f"rank {rank} ({PLACES[rank]}): after step ")
        blamed = re.findall(r"(rank \d \([^)]*\)), after step (\d+), (?:died|has not answered)", said[0])
        assert [name for name, _ in blamed] == [f"rank {victim} ({PLACES[victim]})"], said
        assert int(blamed[0][1]) >= STEPS - 1


def test_the_failure_of_one_rank_is_told_to_all(tmp_path: Path) -> None:
    with Ranks(_raise_on_one_rank, 4, MAP, tmp_path) as ranks:
        wait_for(lambda: len(list(tmp_path.glob("*.err"))) == 4)
        outcomes = ranks.wait(30, stop_at_failure=False)
    assert all(isinstance(outcome, Failed) for outcome in outcomes.values())
    said = {rank: (tmp_path / f"{rank}.err").read_text() for rank in range(4)}
    assert f"error: rank 2 ({PLACES[2]}): after step {STEPS}: no space left on the moon" in said[2]
    for rank in (0, 1, 3):
        assert f"rank 2 ({PLACES[2]}) failed: no space left on the moon" in said[rank], f"{said}\n{outcomes}"


def _hang_on_one_rank(stage_map: StageMap, folder: Path) -> None:
    hanging = os.environ["RANK"] == "1"

    def hang(step: int) -> None:
        if hanging and step == STEPS:
            time.sleep(1000)

    _train(stage_map, folder, hang)


@pytest.mark.slow
@pytest.mark.parametrize(("stages", "replicas"), [(1, 2), (3, 1)])
def test_a_rank_that_lives_but_does_not_come_is_named_with_its_line(tmp_path: Path, stages: int, replicas: int) -> None:
    count = stages * replicas
    with Ranks(_hang_on_one_rank, count, toy_map(stages, replicas), tmp_path) as ranks:
        wait_for(lambda: (tmp_path / "1.ready").exists())
        outcomes = ranks.wait(TIMEOUT + 10, stop_at_failure=False)
    assert all(isinstance(outcome, Failed) and "still running" not in outcome for outcome in outcomes.values())
    place = f"stage {stages // 3}, replica {replicas // 2}"
    for rank in range(count):
        said = re.findall(r"^error: (.*)", (tmp_path / f"{rank}.err").read_text(), re.MULTILINE)
        assert len(said) == 1, said
        named = f": rank 1 ({place}), after step {STEPS}, hangs in {__file__}, line "
        assert named in said[0] and said[0].count("hangs") == 1 and "(hang)" in said[0], said


def _leave_one_after_the_other() -> int:
    grid = start_process_group(toy_map(2, 1), TIMEOUT)
    for first_to_leave in (0, 1):
        heartbeat = Heartbeat(grid, lambda: 7)
        time.sleep(0.0 if grid.rank == first_to_leave else 1.5)
        heartbeat.stop()
    return grid.rank


def test_leaving_alarms_nobody() -> None:
    with Ranks(_leave_one_after_the_other, 2) as ranks:
        outcomes = ranks.wait(30, stop_at_failure=False)
    assert all(isinstance(outcome, Returned) for outcome in outcomes.values()), outcomes


def _wait_for_a_busy_replica() -> list[int]:
    grid = start_process_group(toy_map(1, 2), TIMEOUT)
    learner = few_shot_learner(grid, meta_config(False), Adaptation(1, 6, 0.0, 0, 0.0, 4, seed=0))
    with failing_by_name(grid, lambda: learner.steps_done):
        time.sleep(grid.replica * 1.5 * TIMEOUT)
        return learner.gather(grid.rank)


@pytest.mark.slow
def test_a_replica_without_tasks_waits_for_the_others_longer_than_the_timeout() -> None:
    assert run_on_ranks(_wait_for_a_busy_replica, 2) == [[0, 1], [0, 1]]


def _poison_one_step(stage_map: StageMap, settings: EngineSettings) -> tuple[list[bool], list[bool], bool]:
    return poison_one_step(start_process_group(stage_map, 30), settings)


@pytest.mark.parametrize("schedule", ["1f1b", "2bw"])
def test_a_step_without_a_finite_gradient_is_skipped_by_all(schedule: Literal["1f1b", "2bw"]) -> None:
    settings = EngineSettings(schedule=schedule, zero_stage=1, precision="bf16" if schedule == "2bw" else "fp32")
    only_the_third = [False, False, True, False, False]
    for skipped, stayed, finite in run_on_ranks(_poison_one_step, 4, toy_map(2, 2), settings):
        assert skipped == stayed == only_the_third and finite
