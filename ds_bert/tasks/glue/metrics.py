"""The official measures of the GLUE tasks; names are those of Hugging Face's `evaluate`.

scipy and scikit-learn take a second or two to import, on every rank: only the measures that need them do it.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Measures = dict[str, float]


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> Measures:
    """Return the share of right predictions."""
    return {"accuracy": float((predictions == labels).mean())}


def accuracy_and_f1(predictions: np.ndarray, labels: np.ndarray) -> Measures:
    """Return accuracy, F1 of class 1 (0 where nothing is of it), and their mean."""
    from sklearn import metrics

    measures = accuracy(predictions, labels)
    measures["f1"] = float(metrics.f1_score(labels, predictions, zero_division=0.0))
    return measures | {"combined_score": (measures["accuracy"] + measures["f1"]) / 2}


def matthews(predictions: np.ndarray, labels: np.ndarray) -> Measures:
    """Return Matthews' correlation, for three classes R3; 0 where all predictions are the same."""
    from sklearn import metrics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a single class
        return {"matthews_correlation": float(metrics.matthews_corrcoef(labels, predictions))}


def correlations(predictions: np.ndarray, labels: np.ndarray) -> Measures:
    """Return Pearson's and Spearman's correlation, and their mean; 0 where they are not defined."""
    from scipy import stats

    pearson, spearman = (_correlation(function, predictions, labels) for function in (stats.pearsonr, stats.spearmanr))
    return {"pearson": pearson, "spearmanr": spearman, "combined_score": (pearson + spearman) / 2}


def _correlation(function: Callable[..., tuple[float, float]], first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(function(first.astype(np.float64), second.astype(np.float64))[0])


def diagnostic(predictions: np.ndarray, labels: np.ndarray) -> Measures:
    """Return R3, which the GLUE server reports, and the accuracy."""
    return matthews(predictions, labels) | accuracy(predictions, labels)


def own_classification(predictions: np.ndarray, labels: np.ndarray) -> Measures:
    """Return the accuracy, and F1 averaged over the classes with equal weight."""
    from sklearn import metrics

    f1 = metrics.f1_score(labels, predictions, average="macro", zero_division=0.0)
    return accuracy(predictions, labels) | {"macro_f1": float(f1)}


def own_regression(predictions: np.ndarray, labels: np.ndarray) -> Measures:
    """Return the correlations and the mean squared error."""
    error = np.square(predictions.astype(np.float64) - labels).mean()
    return correlations(predictions, labels) | {"mse": float(error)}


CLASSIFICATION, REGRESSION = "classification", "regression"
"""Where the measures of a user's own data stand in `METRICS`."""


@dataclass(frozen=True)
class Metric:
    """How a task is measured.

    Args:
        measure: a function of predictions and labels: class ids (N,), or numbers (N,).
        best: the measure by which checkpoints are compared; higher is better.
    """

    measure: Callable[[np.ndarray, np.ndarray], Measures]
    best: str = "accuracy"

    def __call__(self, predictions: np.ndarray, labels: np.ndarray) -> Measures:
        """Measure."""
        return self.measure(predictions, labels)


METRICS: Mapping[str, Metric] = {
    "cola": Metric(matthews, "matthews_correlation"),
    "sst2": Metric(accuracy),
    "mrpc": Metric(accuracy_and_f1, "combined_score"),
    "stsb": Metric(correlations, "combined_score"),
    "qqp": Metric(accuracy_and_f1, "combined_score"),
    "mnli": Metric(accuracy),
    "qnli": Metric(accuracy),
    "rte": Metric(accuracy),
    "wnli": Metric(accuracy),
    "snli": Metric(accuracy),
    "scitail": Metric(accuracy),
    "ax": Metric(diagnostic, "matthews_correlation"),
    CLASSIFICATION: Metric(own_classification),
    REGRESSION: Metric(own_regression, "combined_score"),
}
"""Of each task, and of a user's own data."""
