from collections import Counter

import numpy as np
import pytest

from ds_bert.data.features import make_features
from ds_bert.errors import UserError
from ds_bert.meta.tasks.episode import Episode, stratified_order, support_batches


def episode(labels: list[int]) -> Episode:
    def features(numbers: list[int]) -> object:
        return make_features([[1, 2]] * len(numbers), [2] * len(numbers), 0, {"labels": np.array(numbers)})

    return Episode(features(labels), features(labels[:1]), max(labels) + 1, "task")  # type: ignore[arg-type]


@pytest.mark.parametrize("num_batches", [1, 8, 9, 26])
def test_batches_hold_every_example_once_and_the_first_every_class(num_batches: int) -> None:
    task = episode([0] * 27 + [1] * 27 + [2] * 26)
    batches = support_batches(task, num_batches, seed=1, number=2)
    assert len(batches) == num_batches and max(map(len, batches)) - min(map(len, batches)) <= 1
    assert sorted(np.concatenate(batches)) == list(range(80))
    assert set(task.support.columns["labels"][batches[0]]) == {0, 1, 2}


def test_batches_follow_from_seed_and_number() -> None:
    task = episode([0, 1] * 10)
    orders = {
        (seed, number): tuple(np.concatenate(support_batches(task, 4, seed, number)))
        for seed in (0, 1)
        for number in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert orders[1, 0] == tuple(np.concatenate(support_batches(task, 4, 1, 0)))


@pytest.mark.parametrize("num_batches", [0, 3, 7])
def test_too_many_batches_are_refused(num_batches: int) -> None:
    with pytest.raises(UserError, match=f"task: 6 support examples in --num_batches {num_batches}"):
        support_batches(episode([0, 1, 2] * 2), num_batches, 0, 0)


def test_a_rare_class_is_spread_evenly() -> None:
    labels = np.array([1] * 3 + [0] * 9)
    order = stratified_order(labels, 5)
    assert Counter(labels[order[:2]].tolist()) == {0: 1, 1: 1}
    assert [labels[part].sum() for part in np.array_split(order, 3)] == [1, 1, 1]
