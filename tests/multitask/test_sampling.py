"""Every way of sampling: which tasks, how often, each example when; the same on resume and on any replicas."""

from collections import Counter

import numpy as np
import pytest

from ds_bert.multitask.sampling import (
    ProportionalSampler,
    SequentialSampler,
    TaskSampler,
    TaskStreams,
    UncertaintySampler,
    UniformSampler,
)

SIZES, BATCH, SEED = [5, 30, 12], 6, 4
LENGTHS = np.random.default_rng(0).integers(3, 40, sum(SIZES))


def choose(candidates: np.ndarray) -> np.ndarray:
    """In the place of a model: the longest are the most uncertain."""
    return np.argsort(-LENGTHS[candidates.reshape(-1)], kind="stable")[:BATCH]


def make(kind: type[TaskSampler]) -> TaskSampler:
    more = (choose,) if kind is UncertaintySampler else ()
    return kind(LENGTHS, SIZES, BATCH, SEED, *more)


def task_of(numbers: np.ndarray) -> list[int]:
    return np.searchsorted(np.cumsum(SIZES), numbers, side="right").tolist()


KINDS = (ProportionalSampler, UniformSampler, SequentialSampler, UncertaintySampler)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_follows_from_its_number(kind: type[TaskSampler]) -> None:
    first, later = make(kind), make(kind)
    batches = [first.samples(step).tolist() for step in range(20)]
    assert later.samples(13).tolist() == batches[13] and later.samples(2).tolist() == batches[2]
    assert len({tuple(batch) for batch in batches}) > 15
    assert all(sorted(LENGTHS[batch], reverse=True) == LENGTHS[batch].tolist() for batch in batches)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("replicas", "size"), [(1, 6), (1, 2), (2, 3), (2, 1), (3, 2)])
def test_a_global_batch_is_the_same_for_any_replicas(kind: type[TaskSampler], replicas: int, size: int) -> None:
    whole, parts = make(kind).samples(7).tolist(), make(kind)
    found = []
    for index in range(BATCH // (replicas * size)):
        for replica in range(replicas):
            epochs, numbers = parts.micro_batch(7, replica, index, size, replicas)
            assert len(epochs) == len(numbers) == size
            found += numbers.tolist()
    assert found == whole


def test_streams_begin_anew_when_they_have_run_out() -> None:
    streams = TaskStreams(SIZES, SEED)
    numbers = streams.numbers(2, np.arange(36)).reshape(3, 12)
    assert [sorted(part.tolist()) for part in numbers] == [list(range(35, 47))] * 3
    assert len({tuple(part.tolist()) for part in numbers}) == 3


def test_proportional_sees_every_example_once_an_epoch() -> None:
    sampler = make(ProportionalSampler)
    seen = np.concatenate([sampler.samples(step) for step in range(47)])  # six epochs
    assert set(Counter(seen.tolist()).values()) == {6}


def test_uniform_takes_every_task_equally_often() -> None:
    sampler = make(UniformSampler)
    for step in range(10):
        assert Counter(task_of(sampler.samples(step))) == {0: 2, 1: 2, 2: 2}
    seen = Counter(np.concatenate([make(UniformSampler).samples(step) for step in range(6)]).tolist())
    assert all(seen[number] in (2, 3) for number in range(5)) and all(seen[number] == 1 for number in range(35, 47))


def test_sequential_takes_turns_until_data_run_out() -> None:
    sampler = make(SequentialSampler)
    tasks = [set(task_of(sampler.samples(step))) for step in range(16)]
    assert tasks == [{0}, {1}, {2}, {1}, {2}, {1}, {1}, {1}] * 2
    assert set(np.concatenate([sampler.samples(step) for step in range(8)]).tolist()) == set(range(47))


def test_an_epoch_has_the_steps_that_its_examples_fill() -> None:
    assert {make(kind).steps_per_epoch for kind in KINDS if kind is not SequentialSampler} == {47 / BATCH}
    assert make(SequentialSampler).steps_per_epoch == 8
    short = SequentialSampler(np.full(40, 5), [10] * 4, 32, SEED)
    assert short.steps_per_epoch == 4
    assert [set((short.samples(step) // 10).tolist()) for step in range(4)] == [{0}, {1}, {2}, {3}]


def test_uncertainty_picks_among_a_batch_of_every_task() -> None:
    asked = []

    def spy(candidates: np.ndarray) -> np.ndarray:
        asked.append(candidates)
        return choose(candidates)

    sampler = UncertaintySampler(LENGTHS, SIZES, BATCH, SEED, spy)
    numbers = sampler.samples(3)
    sampler.micro_batch(3, 0, 0, 2, 1)
    (candidates,) = asked  # scored once a step
    assert candidates.shape == (3, BATCH) and [set(task_of(row)) for row in candidates] == [{0}, {1}, {2}]
    assert sorted(LENGTHS[numbers]) == sorted(LENGTHS[candidates.reshape(-1)])[-BATCH:]


def test_what_was_seen_is_remembered() -> None:
    sampler, resumed = make(SequentialSampler), make(SequentialSampler)
    assert sampler.shares_seen() == [0, 0, 0]
    sampler.samples(0)
    sampler.samples(1)
    assert sampler.shares_seen() == [1.0, 6 / 30, 0]
    resumed.load(sampler.state())
    assert resumed.shares_seen() == sampler.shares_seen()
