"""The official measures of the GLUE tasks; names are those of Hugging Face's `evaluate`."""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats
from sklearn import metrics

Measures = dict[str, float]


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> Measures:
    """Return the share of right predictions."""
    return {"accuracy": float(metrics.accuracy_score(labels, predictions))}


def accuracy_and_f1(predictions: np.ndarray, labels: np.ndarray) -> Measures:
    """Return accuracy, F1 of class 1 (0 where nothing is of it), and their mean."""
    measures = accuracy(predictions, labels)
    measures["f1"] = float(metrics.f1_score(labels, predictions, zero_division=0.0))
    return measures | {"combined_score": (measures["accuracy"] + measures["f1"]) / 2}


def matthews(predictions: np.ndarray, labels: np.ndarray) -> Measures:
    """Return Matthews' correlation, for three classes R3; 0 where all predictions are the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a single class
        return {"matthews_correlation": float(metrics.matthews_corrcoef(labels, predictions))}


def correlations(predictions: np.ndarray, labels: np.ndarray) -> Measures:
    """Return Pearson's and Spearman's correlation, and their mean; 0 where they are not defined."""
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
    f1 = metrics.f1_score(labels, predictions, average="macro", zero_division=0.0)
    return accuracy(predictions, labels) | {"macro_f1": float(f1)}


def own_regression(predictions: np.ndarray, labels: np.ndarray) -> Measures:
    """Return the correlations and the mean squared error."""
    error = np.square(predictions.astype(np.float64) - labels).mean()
    return correlations(predictions, labels) | {"mse": float(error)}


CLASSIFICATION, REGRESSION = "classification", "regression"
"""Where the measures of a user's own data stand in `METRICS`."""

METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], Measures]] = {
    "cola": matthews,
    "sst2": accuracy,
    "mrpc": accuracy_and_f1,
    "stsb": correlations,
    "qqp": accuracy_and_f1,
    "mnli": accuracy,
    "qnli": accuracy,
    "rte": accuracy,
    "wnli": accuracy,
    "snli": accuracy,
    "scitail": accuracy,
    "ax": diagnostic,
    CLASSIFICATION: own_classification,
    REGRESSION: own_regression,
}
"""For each task a function of predictions and labels: class ids (N,), or numbers (N,)."""

BEST_METRIC: Mapping[str, str] = {name: "accuracy" for name in METRICS} | {
    "cola": "matthews_correlation",
    "mrpc": "combined_score",
    "stsb": "combined_score",
    "qqp": "combined_score",
    "ax": "matthews_correlation",
    REGRESSION: "combined_score",
}
"""For each task the measure by which checkpoints are compared; higher is better."""
