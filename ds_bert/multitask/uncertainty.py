"""MT-Uncertainty: how uncertain a model is of candidates of different tasks, on one scale (section 2.5 of the paper).

Two forms, of an example's entropy H over its task's C labels:

- ``paper``, the default: H / (Ĥ · log C), with Ĥ the greatest of the tasks' mean entropies. Ĥ is one number for all,
  so that the picks are those of the greatest share of the entropy that is possible.
- ``code``, what the published code does: e · ē / max ē, with e = H / log C and ē its mean over the task's candidates.
  Tasks of which the model is uncertain as a whole are preferred.

A regression has no entropy. As in the published code, where MRPC stands in for STS-B, its k-th candidate has the score
of the k-th candidate of a stand-in: MRPC where it is among the tasks, else the smallest task with labels.
"""

from collections.abc import Sequence

import numpy as np

from ds_bert.errors import UserError

FORMS = ("paper", "code")


def entropies(logits: np.ndarray) -> np.ndarray:
    """Entropy of the softmax over the last axis, in nats, float64; logits of minus infinity are of no label."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=-1)
    weighted = np.where(weights > 0, shifted, 0.0) * weights
    return np.log(total) - weighted.sum(axis=-1) / total


def scores(entropy: np.ndarray, labels: Sequence[int], form: str, stand_in: int) -> np.ndarray:
    """Score candidates; the greater, the more uncertain.

    Args:
        entropy: (tasks, candidates of each).
        labels: how many each task has; 0 in regression.
        form: one of `FORMS`.
        stand_in: the task whose scores those with no labels have.

    Returns:
        Float64 (tasks, candidates).
    """
    has_labels = np.array(labels) > 0
    most = np.log(np.maximum(labels, 2))
    share = entropy / most[:, None]
    if form == "paper":
        found = share / (entropy.mean(axis=1)[has_labels].max() or 1.0)
    else:
        means = share.mean(axis=1)
        found = share * (means / (means[has_labels].max() or 1.0))[:, None]
    return np.where(has_labels[:, None], found, found[stand_in])


def most_uncertain(found: np.ndarray, count: int) -> np.ndarray:
    """Places of the ``count`` greatest of all scores, counted through the flattened array; of equal ones, the first."""
    return np.argsort(-found.reshape(-1), kind="stable")[:count]


def stand_in(names: Sequence[str], labels: Sequence[int], sizes: Sequence[int]) -> int:
    """Return the task whose scores regressions have.

    Raises:
        UserError: no task has labels.
    """
    classified = [task for task, count in enumerate(labels) if count > 0]
    if not classified:
        raise UserError(
            f"--use_mt_uncertainty: found only regressions ({', '.join(names)}), needed is a task with labels"
        )
    if "mrpc" in names and names.index("mrpc") in classified:
        return names.index("mrpc")
    return min(classified, key=lambda task: (sizes[task], task))
