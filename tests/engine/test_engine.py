import numpy as np
import pytest
import torch

from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.stage_map import StageMap
from tests.support.processes import run_on_ranks
from tests.support.reference import deviation, train_reference
from tests.support.toy import global_batch, toy_config, toy_map
from tests.support.training import Case, build_engine, micro_batches, train_cases

CASE = Case(EngineSettings("sgd", seed=1), micro_batch_size=2, steps=3)


def _vote(stage_map: StageMap) -> tuple[list[float], list[tuple[int, ...]], float, int]:
    grid = start_process_group(stage_map, timeout_seconds=30)
    engine = build_engine(grid, stage_map.cuts, CASE)
    (result,) = engine.train_batch(micro_batches(grid, CASE.batch(0), 2), 0.1, votes=[grid.rank, 0.5])
    mine = [(2, 16 - grid.replica, 1), (1, 7, 0)]
    shapes = engine.share_shapes(mine if grid.is_first else None, len(mine))
    return result.sums[len(engine.objective.sums) :].tolist(), shapes, engine.timeline.busy_seconds, grid.replica


def test_votes_are_added_up_and_shapes_reach_every_stage() -> None:
    for votes, shapes, busy_seconds, replica in run_on_ranks(_vote, 4, toy_map(2, 2)):
        assert votes == [6.0, 2.0]
        assert shapes == [(2, 16 - replica, 1), (1, 7, 0)]
        assert busy_seconds > 0


def test_no_bound_means_no_clipping() -> None:
    (found,) = train_cases(toy_map(2, 1), [CASE.change(max_grad_norm=0.0)])
    expected = train_reference(
        toy_config(),
        [global_batch(step) for step in range(CASE.steps)],
        seed=1,
        optimizer="sgd",
        options={},
        weight_decay=0.0,
        max_grad_norm=float("inf"),
        learning_rate=CASE.learning_rate,
    )
    away = deviation(found, expected)
    assert max(away.loss, away.norm, away.weights) <= 1e-5


def _in_flight(stage_map: StageMap) -> tuple[int, int]:
    """The most micro-batches whose activations a stage holds at once, and what is left after the step."""
    grid = start_process_group(stage_map, timeout_seconds=30)
    engine = build_engine(grid, stage_map.cuts, Case(CASE.settings, micro_batch_size=1))
    most = 0

    def counting(module: torch.nn.Module, *_: object) -> None:
        nonlocal most
        most = max(most, sum(bool(state.inputs) for state in engine.execution._in_flight.values()))

    engine.module.register_forward_pre_hook(counting)
    engine.train_batch(micro_batches(grid, CASE.batch(0), 1), 0.1)
    return most, len(engine.execution._in_flight)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_a_stage_holds_no_more_micro_batches_than_1f1b_needs(stages: int) -> None:
    found = run_on_ranks(_in_flight, stages, toy_map(stages, 1))
    assert found == [(stages - stage, 0) for stage in range(stages)]


def _trajectory_twice(stage_map: StageMap) -> bool:
    grid = start_process_group(stage_map, timeout_seconds=30)
    results = []
    for _ in range(2):
        engine = build_engine(grid, stage_map.cuts, CASE)
        results.append([engine.train_batch(micro_batches(grid, CASE.batch(0), 2), 0.1)[0].grad_norm for _ in range(3)])
    return np.array_equal(*results)


def test_a_run_repeats_itself_to_the_bit() -> None:
    assert all(run_on_ranks(_trajectory_twice, 4, toy_map(2, 2)))


def _losses_between_others_collectives(stage_map: StageMap, disturb: bool, is_late: bool = False) -> list[float]:
    grid = start_process_group(stage_map, timeout_seconds=30)
    engine = build_engine(grid, stage_map.cuts, CASE.change(schedule="2bw"))
    poll, results = engine.optimizer.poll, []
    if is_late:  # others' answers never come before they are waited for
        engine.optimizer.poll = lambda reduction, wait=False: wait and poll(reduction, wait)  # type: ignore[method-assign]
    for step in range(4):
        results += engine.train_batch(micro_batches(grid, CASE.batch(step), 2), 0.1)
        if disturb:
            ones = torch.ones(100)
            torch.distributed.all_reduce(ones)
            assert ones.tolist() == [2.0] * 100
    results += engine.drain()
    return [engine.objective.report(result.sums)["loss"] for result in results]


def test_steps_under_way_do_not_meet_other_collectives() -> None:
    """Under 2BW a step's norm is still being added up when `train_batch` returns."""
    cases = ((False, False), (True, False), (True, True))
    alone, *others = (run_on_ranks(_losses_between_others_collectives, 2, toy_map(2, 1), *case) for case in cases)
    assert all(disturbed == alone for disturbed in others) and len(alone[0]) == 4
