import numpy as np
import pytest

from ds_bert.data.sampler import GlobalBatchSampler
from ds_bert.errors import UserError


@pytest.mark.parametrize("num_examples, batch", [(10, 4), (12, 4), (3, 8), (1, 2)])
def test_every_epoch_holds_every_example_once(num_examples: int, batch: int) -> None:
    sampler = GlobalBatchSampler(num_examples, batch, seed=0)
    dealt = [
        pair
        for step in range(num_examples * 4)
        for pair in zip(*(array.tolist() for array in sampler.samples(step)), strict=True)
    ]
    for epoch in range(4):
        part = dealt[epoch * num_examples : (epoch + 1) * num_examples]
        assert {pair[0] for pair in part} == {epoch}
        assert sorted(pair[1] for pair in part) == list(range(num_examples))


def test_steps_are_accessible_at_random() -> None:
    one, other = GlobalBatchSampler(100, 7, seed=3), GlobalBatchSampler(100, 7, seed=3)
    forward = [one.samples(step) for step in range(60)]
    for step in reversed(range(60)):
        assert np.array_equal(forward[step], other.samples(step))


def test_orders_differ_between_epochs_and_seeds() -> None:
    epochs = [GlobalBatchSampler(500, 500, seed=1).samples(step)[1] for step in range(2)]
    assert (epochs[0] != epochs[1]).mean() > 0.9
    assert (epochs[0] != GlobalBatchSampler(500, 500, seed=2).samples(0)[1]).mean() > 0.9


@pytest.mark.parametrize("size, replicas", [(24, 1), (4, 2), (2, 3), (1, 8)])
def test_a_global_batch_is_the_same_for_every_split(size: int, replicas: int) -> None:
    sampler = GlobalBatchSampler(50, 24, seed=0)
    for step in (0, 2):
        parts = [
            sampler.micro_batch(step, replica, index, size, replicas)
            for index in range(24 // (size * replicas))
            for replica in range(replicas)
        ]
        assert np.array_equal(np.concatenate(parts, axis=1), sampler.samples(step))


def test_a_micro_batch_outside_the_global_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="outside"):
        GlobalBatchSampler(50, 8, seed=0).micro_batch(0, 1, 2, 2, 2)


def test_empty_data_are_refused() -> None:
    with pytest.raises(UserError):
        GlobalBatchSampler(0, 4, seed=0)
