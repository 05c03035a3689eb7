"""Scores and picks against the formulas written out, candidate by candidate."""

import math

import numpy as np
import pytest

from ds_bert.errors import UserError
from ds_bert.multitask.sampling import entropies, most_uncertain, scores, stand_in

NAMES, LABELS = ["cola", "mnli", "stsb", "mrpc"], [2, 3, 0, 2]
LOGITS = np.random.default_rng(0).normal(0, 2, (4, 5, 3)).astype(np.float32)
LOGITS[[0, 3], :, 2:] = -np.inf
LOGITS[2, :, 1:] = -np.inf


def plain_entropy(logits: np.ndarray) -> float:
    weights = [math.exp(float(value)) for value in logits if value > -math.inf]
    return -sum(weight / sum(weights) * math.log(weight / sum(weights)) for weight in weights)


def plain_scores(form: str) -> list[list[float]]:
    entropy = [[plain_entropy(candidate) for candidate in task] for task in LOGITS]
    classified = [0, 1, 3]
    result: list[list[float]] = [[]] * 4
    for task in classified:
        most = math.log(LABELS[task])
        if form == "paper":
            greatest = max(sum(entropy[other]) / 5 for other in classified)
            result[task] = [value / (greatest * most) for value in entropy[task]]
        else:
            means = {other: sum(entropy[other]) / 5 / math.log(LABELS[other]) for other in classified}
            result[task] = [value / most * means[task] / max(means.values()) for value in entropy[task]]
    result[2] = result[3]  # STS-B has what MRPC has
    return result


def test_entropies() -> None:
    found = entropies(LOGITS)
    expected = [[plain_entropy(candidate) for candidate in task] for task in LOGITS]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (found[2] == 0).all()
    assert entropies(np.array([1e4, 0.0, -np.inf], dtype=np.float32)) == 0


@pytest.mark.parametrize("form", ["paper", "code"])
def test_scores_and_picks(form: str) -> None:
    found = scores(entropies(LOGITS), LABELS, form, stand_in(NAMES, LABELS, [9, 9, 9, 9]))
    expected = plain_scores(form)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    flat = [value for task in expected for value in task]
    picked = sorted(range(len(flat)), key=lambda place: (-round(flat[place], 9), place))[:7]
    assert most_uncertain(np.round(found, 9), 7).tolist() == picked


def test_forms_differ() -> None:
    both = [most_uncertain(scores(entropies(LOGITS), LABELS, form, 3), 5).tolist() for form in ("paper", "code")]
    assert both[0] != both[1]


def test_a_model_that_is_certain_of_everything() -> None:
    for form in ("paper", "code"):
        found = scores(np.zeros((2, 3)), [2, 3], form, 0)
        assert (found == 0).all() and most_uncertain(found, 2).tolist() == [0, 1]


def test_who_stands_in() -> None:
    assert stand_in(NAMES, LABELS, [1, 2, 3, 4]) == 3
    assert stand_in(["a", "b", "c"], [0, 2, 2], [1, 30, 20]) == 2
    with pytest.raises(UserError, match="only regressions"):
        stand_in(["stsb"], [0], [5])
