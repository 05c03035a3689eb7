"""1F1B, GPipe and 2BW for every small pipeline: no deadlock, each micro-batch once, bubbles and memory by formula."""

from collections.abc import Iterable

import pytest

from ds_bert.schedules import SCHEDULES
from ds_bert.schedules.schedule import Backward, Forward, one_f_one_b
from ds_bert.schedules.simulator import Deadlock, Simulation, bubble_share, simulate

BATCHES = 4
TWO_BW = SCHEDULES["2bw"]
ALL = [(stages, micro_batches) for stages in range(1, 9) for micro_batches in range(1, 33)]


def run_two_bw(stages: int, micro_batches: int, drains: Iterable[int] = (BATCHES,)) -> Simulation:
    """Simulate global batches, drained after those in ``drains``."""
    orders: list[list[Forward | Backward]] = [[] for _ in range(stages)]
    drained = 0
    for batch in range(BATCHES):
        for stage, order in enumerate(orders):
            order.extend(TWO_BW.step(stage, stages, micro_batches, batch, drained * micro_batches))
        if batch + 1 in drains:
            for stage, order in enumerate(orders):
                order.extend(TWO_BW.drain(stage, stages, (batch + 1) * micro_batches, drained * micro_batches))
            drained = batch + 1
    return simulate(orders)


def check_each_once(simulation: Simulation, micro_batches: int) -> None:
    """Every micro-batch is computed forward and backward exactly once, in order, on each stage."""
    for stage in simulation.stages:
        for is_forward in (True, False):
            assert [step.micro_batch for step in stage if step.is_forward == is_forward] == list(range(micro_batches))


def share_in_theory(stages: int, micro_batches: int) -> float:
    """What every schedule that ends a global batch before the next one has at best."""
    return (stages - 1) / (micro_batches + stages - 1)


@pytest.mark.parametrize("name", [name for name, schedule in SCHEDULES.items() if not schedule.never_drains])
def test_schedules_that_flush(name: str) -> None:
    for stages, micro_batches in ALL:
        schedule = SCHEDULES[name]
        simulation = simulate([schedule.step(stage, stages, micro_batches, 5, 0) for stage in range(stages)])
        check_each_once(simulation, micro_batches)
        assert simulation.bubble_share == pytest.approx(share_in_theory(stages, micro_batches))
        assert bubble_share(schedule, stages, micro_batches) == simulation.bubble_share
        for stage in range(stages):
            alive = micro_batches if name == "gpipe" else min(stages - stage, micro_batches)
            assert simulation.live_activations(stage) == alive


def test_two_bw_has_no_bubble_between_global_batches() -> None:
    for stages, micro_batches in ALL:
        if micro_batches < stages:
            continue
        simulation = run_two_bw(stages, micro_batches)
        total = BATCHES * micro_batches
        check_each_once(simulation, total)
        # A single fill and a single drain in the whole run, whatever the number of global batches.
        assert simulation.bubble_share == pytest.approx(share_in_theory(stages, total))
        for stage in range(stages):
            assert simulation.live_activations(stage) == min(stages - stage, total)


def test_a_drain_costs_one_fill_and_loses_nothing() -> None:
    for stages, micro_batches in [(2, 2), (4, 6), (8, 8), (3, 7)]:
        simulation = run_two_bw(stages, micro_batches, drains=(1, 3, BATCHES))
        check_each_once(simulation, BATCHES * micro_batches)
        busy = 3.0 * BATCHES * micro_batches
        assert simulation.makespan == pytest.approx(busy + 3 * 3.0 * (stages - 1))


def test_two_versions_are_enough_from_as_many_micro_batches_as_stages() -> None:
    """When a stage begins global batch t it has done all backwards of t - 2, whose gradient gives version t - 1."""
    for stages, micro_batches in ALL:
        for stage in range(stages):
            done: set[int] = set()
            enough = True
            for batch in range(BATCHES):
                needed = range((batch - 1) * micro_batches) if TWO_BW.weight_version(batch) else ()
                enough &= done.issuperset(needed)
                done |= {
                    step.micro_batch
                    for step in TWO_BW.step(stage, stages, micro_batches, batch, 0)
                    if isinstance(step, Backward)
                }
            assert enough or micro_batches < stages


def test_weight_versions() -> None:
    assert [TWO_BW.weight_version(batch) for batch in range(5)] == [0, 0, 1, 2, 3]


def test_a_deadlock_is_found() -> None:
    with pytest.raises(Deadlock, match=r"\[0, 1\]"):
        simulate(
            [[Forward(0), Backward(0), Forward(1), Backward(1)], [Forward(0), Forward(1), Backward(0), Backward(1)]]
        )


def test_waits_and_unequal_stages() -> None:
    simulation = simulate([one_f_one_b(stage, 2, 4) for stage in range(2)], forward=[1.0, 2.0], backward=[2.0, 4.0])
    assert simulation.busy(0) == 12.0 and simulation.busy(1) == 24.0
    assert simulation.makespan == 1.0 + 24.0 + 2.0  # first forward, the slow stage without a pause, last backward
    assert simulation.longest_wait(1) == 0.0 and simulation.longest_wait(0) > 0.0
