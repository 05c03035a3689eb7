"""A rank is named when it is slow for long, by the measure of what its work should take."""

import statistics

import numpy as np
import pytest

from ds_bert.training.meter import AGAIN_AFTER, IN_A_ROW, Stragglers, _median_of_others

STEPS = 40


def _named(times: np.ndarray, replicas: int) -> dict[int, list[int]]:
    """{rank: the steps at which it was named}, of seconds float64 (steps, ranks)."""
    watch, named = Stragglers(replicas, times.shape[1]), {}
    for step, seconds in enumerate(times.tolist(), 1):
        for rank in watch.note(step, seconds):
            named.setdefault(rank, []).append(step)
    return named


def _times(stages: int, replicas: int, steps: int = STEPS) -> np.ndarray:
    """Stages whose work differs, as uneven cuts have it, and ranks that differ by up to a tenth."""
    noise = np.random.default_rng(0).uniform(0.95, 1.05, (steps, stages * replicas))
    return noise * np.repeat(1.0 + 3.0 * np.arange(stages), replicas)


@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
@pytest.mark.parametrize("stages", [1, 3])
def test_equal_ranks_are_left_in_peace(stages: int, replicas: int) -> None:
    assert _named(_times(stages, replicas), replicas) == {}


@pytest.mark.parametrize("times_as_long", [1.4, 1.7, 4.0])
@pytest.mark.parametrize(("stages", "replicas", "slow"), [(1, 2, 0), (2, 2, 3), (2, 3, 1), (3, 4, 8)])
def test_a_slow_replica_is_named_once_it_was_slow_for_long(
    stages: int, replicas: int, slow: int, times_as_long: float
) -> None:
    times = _times(stages, replicas)
    times[9:, slow] *= times_as_long  # from step 10 on
    expected = {slow: [9 + IN_A_ROW]} if times_as_long > 1.5 else {}
    assert _named(times, replicas) == expected


def test_two_slow_replicas_of_four_are_both_named() -> None:
    times = _times(1, 4)
    times[:, [0, 2]] *= 2
    assert _named(times, 4) == {0: [IN_A_ROW], 2: [IN_A_ROW]}


@pytest.mark.parametrize(("since", "expected"), [(20, [20 + IN_A_ROW]), (3, [])])
def test_without_replicas_a_rank_is_held_against_its_past(since: int, expected: list[int]) -> None:
    """If it was slow from the beginning, nobody knows that it is."""
    times = _times(2, 1)
    times[since:, 1] *= 2
    assert _named(times, 1) == ({1: expected} if expected else {})


def test_hiccups_are_not_named() -> None:
    times = _times(2, 2, 100)
    for step in range(0, 100, IN_A_ROW):
        times[step : step + IN_A_ROW - 1, 2] *= 3
    assert _named(times, 2) == {}


def test_the_same_rank_is_named_again_after_so_many_steps() -> None:
    times = _times(1, 2, 2 * AGAIN_AFTER + 50)
    times[:, 1] *= 3
    assert _named(times, 2) == {1: [IN_A_ROW, IN_A_ROW + AGAIN_AFTER, IN_A_ROW + 2 * AGAIN_AFTER]}


@pytest.mark.parametrize("replicas", [1, 2])
def test_what_is_not_measured_is_not_judged(replicas: int) -> None:
    assert _named(np.zeros((STEPS, 2)), replicas) == {}
    times = _times(2 // replicas, replicas)
    times[:, 0] = 0.0
    assert _named(times, replicas) == {}


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_the_others_are_all_but_one(count: int) -> None:
    for seed in range(20):
        values = np.random.default_rng(seed).integers(1, 5, count).astype(float).tolist()  # some are equal
        for place, own in enumerate(values):
            others = values[:place] + values[place + 1 :]
            assert _median_of_others(sorted(values), own) == statistics.median(others)


def test_it_says_how_many_times_as_long() -> None:
    watch = Stragglers(3, 3)
    for step in range(1, IN_A_ROW):
        assert watch.note(step, [1.0, 2.0, 5.0]) == {}
    assert watch.note(IN_A_ROW, [1.0, 2.0, 6.0]) == {2: 4.0}  # 6 by the median of 1 and 2
