"""The length-grouped sampler against the plain one: the same examples in every window, sorted, for any split."""

import numpy as np
import pytest

from ds_bert.data.sampler import GlobalBatchSampler, LengthGroupedSampler


def make(num_examples: int, size: int, window: int) -> tuple[GlobalBatchSampler, LengthGroupedSampler]:
    lengths = np.random.default_rng(3).integers(5, 100, num_examples)
    return GlobalBatchSampler(num_examples, size, 7), LengthGroupedSampler(lengths, size, 7, window)


def pairs(sampler: GlobalBatchSampler | LengthGroupedSampler, steps: range) -> list[tuple[int, int]]:
    return sorted(
        (int(epoch), int(number)) for step in steps for epoch, number in zip(*sampler.samples(step), strict=True)
    )


@pytest.mark.parametrize(("num_examples", "size"), [(100, 8), (96, 8), (5, 8), (8, 8), (23, 4)])
@pytest.mark.parametrize("window", [1, 3, 50])
def test_an_epoch_has_the_examples_of_the_plain_sampler(num_examples: int, size: int, window: int) -> None:
    plain, grouped = make(num_examples, size, window)
    for epoch in range(4):
        steps = range(round(epoch * num_examples / size), round((epoch + 1) * num_examples / size))
        assert pairs(grouped, steps) == pairs(plain, steps)


def test_a_window_of_one_only_sorts() -> None:
    plain, grouped = make(100, 8, 1)
    for step in range(30):
        numbers = grouped.samples(step)[1]
        assert sorted(numbers) == sorted(plain.samples(step)[1])
        assert (np.diff(grouped.lengths[numbers]) <= 0).all()


def test_a_window_makes_less_padding() -> None:
    lengths = np.random.default_rng(3).integers(5, 100, 1000)

    def padded(window: int) -> int:
        sampler = LengthGroupedSampler(lengths, 8, 7, window)
        return sum(8 * lengths[sampler.samples(step)[1]].max() for step in range(125))

    assert padded(16) < 0.7 * padded(1)


def test_replicas_and_micro_batches_share_out_the_global_batch() -> None:
    _, grouped = make(100, 8, 3)
    for replicas, count, size in [(1, 4, 2), (2, 2, 2), (4, 1, 2), (2, 1, 4)]:
        dealt = [grouped.micro_batch(5, r, i, size, replicas)[1] for i in range(count) for r in range(replicas)]
        assert np.array_equal(np.concatenate(dealt), grouped.samples(5)[1])


def test_steps_may_be_asked_for_in_any_order() -> None:
    _, grouped = make(100, 8, 3)
    _, again = make(100, 8, 3)
    forwards = [grouped.samples(step)[1] for step in range(20)]
    backwards = [again.samples(step)[1] for step in reversed(range(20))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))
