"""GLUE's measures, against their formulas."""

import numpy as np
import pytest

from ds_bert.tasks.glue.metrics import METRICS


def two_classes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 200)
    return np.where(rng.random(200) < 0.7, labels, 1 - labels), labels


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))


def ranks(values: np.ndarray) -> np.ndarray:
    """Mean rank of each value among all; equal values share theirs."""
    return np.array([((values < value).sum() + (values <= value).sum() + 1) / 2 for value in values])


@pytest.mark.parametrize("name", ["sst2", "mnli", "qnli", "rte", "wnli"])
def test_accuracy(name: str) -> None:
    predictions, labels = two_classes(0)
    assert METRICS[name](predictions, labels) == {"accuracy": (predictions == labels).mean()}


@pytest.mark.parametrize("name", ["mrpc", "qqp"])
def test_accuracy_and_f1_of_the_positive_class(name: str) -> None:
    predictions, labels = two_classes(1)
    right = (predictions & labels).sum()
    precision, recall = right / predictions.sum(), right / labels.sum()
    f1, accuracy = 2 * precision * recall / (precision + recall), (predictions == labels).mean()
    expected = {"accuracy": accuracy, "f1": f1, "combined_score": (accuracy + f1) / 2}
    assert METRICS[name](predictions, labels) == pytest.approx(expected)
    zeros = np.zeros(4, dtype=np.int64)
    assert METRICS[name](zeros, zeros) == {"accuracy": 1.0, "f1": 0.0, "combined_score": 0.5}


def test_matthews_of_two_classes() -> None:
    predictions, labels = two_classes(2)
    tp, tn = ((predictions == value) & (labels == value) for value in (1, 0))
    fp, fn = ((predictions == value) & (labels == 1 - value) for value in (1, 0))
    tp, tn, fp, fn = (float(case.sum()) for case in (tp, tn, fp, fn))
    expected = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert METRICS["cola"](predictions, labels) == {"matthews_correlation": pytest.approx(expected)}


@pytest.mark.filterwarnings("error")
def test_matthews_of_one_class_is_zero() -> None:
    ones = np.ones(5, dtype=np.int64)
    assert METRICS["cola"](ones, np.array([0, 1, 1, 0, 1])) == {"matthews_correlation": 0.0}
    assert METRICS["cola"](ones, ones) == {"matthews_correlation": 0.0}


def test_the_diagnostic_set_has_r3() -> None:
    rng = np.random.default_rng(3)
    labels, predictions = rng.integers(0, 3, 300), rng.integers(0, 3, 300)
    predictions[:150] = labels[:150]
    # Covariance of the one-hot codes, summed over the classes (Gorodkin 2004).
    x, y = (np.eye(3)[classes] - np.eye(3)[classes].mean(0) for classes in (predictions, labels))
    expected = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    found = METRICS["ax"](predictions, labels)
    assert found == pytest.approx({"matthews_correlation": expected, "accuracy": (predictions == labels).mean()})


def test_correlations() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 11, 100).astype(np.float32) / 2
    predictions = (labels + rng.normal(size=100)).astype(np.float32)
    x, y = predictions.astype(np.float64), labels.astype(np.float64)
    straight, ranked = pearson(x, y), pearson(ranks(x), ranks(y))
    expected = {"pearson": straight, "spearmanr": ranked, "combined_score": (straight + ranked) / 2}
    assert METRICS["stsb"](predictions, labels) == pytest.approx(expected)
    own = METRICS["regression"](predictions, labels)
    assert own == pytest.approx(expected | {"mse": np.mean((x - y) ** 2)})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("predictions", [[1.0, 1.0, 1.0], [1.0]])
def test_correlations_that_are_not_defined_are_zero(predictions: list[float]) -> None:
    labels = np.arange(len(predictions), dtype=np.float32)
    assert set(METRICS["stsb"](np.array(predictions), labels).values()) == {0.0}


def test_own_classes_weigh_the_same_in_f1() -> None:
    predictions, labels = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 0, 2, 1])
    assert METRICS["classification"](predictions, labels) == pytest.approx({"accuracy": 0.6, "macro_f1": 1 / 3})


@pytest.mark.parametrize("name", METRICS)
def test_the_best_measure_is_among_the_measures(name: str) -> None:
    predictions, labels = two_classes(5)
    measures = METRICS[name](predictions, labels)
    assert METRICS[name].best in measures
    assert METRICS[name](labels, labels)[METRICS[name].best] == pytest.approx(1.0)
