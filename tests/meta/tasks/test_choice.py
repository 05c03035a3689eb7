import numpy as np
import pytest

from ds_bert.errors import UserError
from ds_bert.meta.tasks.group_tasks import Choice, weighted_sample
from ds_bert.meta.tasks.groups import Groups, held_out


def groups(sizes: list[int], clusters: list[int] | None = None, vectors: np.ndarray | None = None) -> Groups:
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return Groups(
        [f"word{number}" for number in range(len(sizes))],
        starts,
        np.arange(starts[-1]),
        np.array(clusters or [0] * len(sizes)),
        np.zeros((len(sizes), 0), dtype=np.float32) if vectors is None else vectors.astype(np.float32),
    )


def test_draws_are_in_proportion_to_the_weights() -> None:
    weights = np.array([1.0, 0.0, 3.0, 6.0])
    firsts = np.bincount([weighted_sample(weights, 2, 0, number)[0] for number in range(4000)], minlength=4)
    assert firsts[1] == 0
    assert np.abs(firsts / 4000 - weights / 10).max() < 0.03
    after_last = np.mean([weighted_sample(weights, 2, 1, number).tolist() == [3, 2] for number in range(4000)])
    assert abs(after_last - 0.6 * 0.75) < 0.03


def test_log_frequency_prefers_frequent_words_and_uniform_does_not() -> None:
    some = groups([2, 2**9])
    for sampling, share in (("uniform", 0.5), ("log-frequency", 0.9)):
        choice = Choice(some, np.arange(2), sampling)
        drawn = np.mean([choice.choose(1, 0.0, 3, number)[0] for number in range(2000)])
        assert abs(drawn - share) < 0.04


def test_cluster_sampling_stays_in_a_cluster_that_is_large_enough() -> None:
    some = groups([10] * 9, [0, 0, 1, 1, 1, 2, 2, 2, 2])
    choice = Choice(some, np.array([0, 1, 2, 3, 4, 5, 7, 8]), "cluster")
    drawn = [choice.choose(3, 0.0, number).tolist() for number in range(200)]
    assert all(len(set(words)) == 3 for words in drawn)
    assert {tuple(sorted(words)) for words in drawn} == {(2, 3, 4), (5, 7, 8)}
    choice.require(3)
    with pytest.raises(UserError, match="--ways 4: only 3 words or sentence clusters in the largest cluster"):
        choice.require(4)


def test_a_curriculum_ends_with_classes_that_are_alike() -> None:
    angles = np.linspace(0, np.pi / 2, 60)
    some = groups([10] * 60, vectors=np.stack([np.cos(angles), np.sin(angles)], axis=1))
    choice = Choice(some, np.arange(60), curriculum=True)

    def spread(progress: float) -> float:
        drawn = [choice.choose(3, progress, number) for number in range(100)]
        assert all(len(set(words.tolist())) == 3 for words in drawn)
        return float(np.mean([np.ptp(words) for words in drawn]))

    assert spread(0.0) > 25 > spread(0.5) > spread(1.0) and spread(1.0) <= 6


def test_too_few_classes_are_refused() -> None:
    with pytest.raises(UserError, match="--ways 3: only 2 words"):
        Choice(groups([5, 5, 5]), np.array([0, 2])).require(3)


def test_who_is_held_out_does_not_depend_on_how_many_there_are() -> None:
    assert held_out(1000, 0.2)[:100].tolist() == held_out(100, 0.2).tolist()
    assert abs(held_out(5000, 0.2).mean() - 0.2) < 0.02
