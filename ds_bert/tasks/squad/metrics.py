"""Exact match and F1 of answers, as the scorers of SQuAD v1.1 and v2.0 define them (Rajpurkar et al. 2016, 2018)."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

Answers = Mapping[str, Sequence[str]]
"""The known answers of each question by its id; none where it has no answer."""


def normalize_answer(text: str) -> str:
    """Lower-case; take out ASCII punctuation, then articles; put single blanks between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1.0 where both are the same once normalised, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def f1(prediction: str, answer: str, empty_matches_empty: bool) -> float:
    """Harmonic mean of precision and recall over the words of both, counted with repetition.

    Where either has no words, v2.0 (``empty_matches_empty``) says 1.0 if neither has any; v1.1 always says 0.0.
    """
    predicted, known = normalize_answer(prediction).split(), normalize_answer(answer).split()
    if not predicted or not known:
        return float(empty_matches_empty and predicted == known)
    common = sum((Counter(predicted) & Counter(known)).values())
    return 2 * common / (len(predicted) + len(known))


def score(predictions: Mapping[str, str], answers: Answers, version_2: bool) -> tuple[np.ndarray, np.ndarray]:
    """Score each question by the known answer that suits its prediction best.

    In v2.0 known answers that normalise to nothing do not count, and where none is left the right answer is "".

    Args:
        predictions: a text for each question.
        answers: in v1.1 at least one of each.

    Returns:
        Exact match and F1 as shares, float64 (questions,), in the order of ``answers``.
    """
    exact, overlap = np.zeros(len(answers)), np.zeros(len(answers))
    for number, (question, texts) in enumerate(answers.items()):
        prediction = predictions[question]
        known = ([text for text in texts if normalize_answer(text)] or [""]) if version_2 else texts
        exact[number] = max(exact_match(prediction, text) for text in known)
        overlap[number] = max(f1(prediction, text, version_2) for text in known)
    return exact, overlap


def measure_v1(predictions: Mapping[str, str], answers: Answers) -> dict[str, float]:
    """Measure ``exact_match`` and ``f1`` in percent, as the scorer of SQuAD v1.1."""
    exact, overlap = score(predictions, answers, version_2=False)
    return {"exact_match": _percent(exact), "f1": _percent(overlap)}


def measure_v2(
    predictions: Mapping[str, str], null_odds: Mapping[str, float], answers: Answers, threshold: float
) -> dict[str, float]:
    """Measure as the scorer of SQuAD v2.0 does.

    Args:
        predictions: the best answer of each question, as if all had one.
        null_odds: of each question, the higher the less likely it has an answer.
        answers: none where a question has no answer.
        threshold: questions whose odds are above it are predicted to have no answer.

    Returns:
        In percent ``exact_match`` and ``f1`` at the threshold, over all questions, over those that have an answer
        (``HasAns_…``) and over those that have none (``NoAns_…``), each where there are any; and ``best_exact`` and
        ``best_f1`` with the thresholds they are reached at, ``best_exact_thresh`` and ``best_f1_thresh``.
    """
    has_answer = np.array([bool(texts) for texts in answers.values()])
    odds = np.array([null_odds[question] for question in answers])
    says_something = np.array([predictions[question] != "" for question in answers])
    scores = dict(zip(("exact", "f1"), score(predictions, answers, version_2=True), strict=True))
    measures: dict[str, float] = {}
    for name, shares in scores.items():
        decided = np.where(odds > threshold, ~has_answer, shares)
        measures["exact_match" if name == "exact" else name] = _percent(decided)
        for kind, chosen in (("HasAns", has_answer), ("NoAns", ~has_answer)):
            if chosen.any():
                measures[f"{kind}_{name}"] = _percent(decided[chosen])
    for name, shares in scores.items():
        best, best_threshold = best_threshold_of(shares, odds, has_answer, says_something)
        measures |= {f"best_{name}": best, f"best_{name}_thresh": best_threshold}
    return measures


def best_threshold_of(
    shares: np.ndarray, odds: np.ndarray, has_answer: np.ndarray, says_something: np.ndarray
) -> tuple[float, float]:
    """Find the threshold of the odds at which a measure is highest.

    Starting with no question answered, questions are answered in the order of their odds. Each adds its share where it
    has an answer; where it has none, it takes away 1 unless what is said is "". The first maximum counts; where nothing
    is gained, the threshold is 0.0.

    Args:
        shares: of each question's best answer, (questions,).
        odds: of having no answer, (questions,).
        has_answer: (questions,) bool.
        says_something: whether the best answer is not "", (questions,) bool.

    Returns:
        The measure in percent, and the threshold.
    """
    order = np.argsort(odds, kind="stable")
    gains = np.where(has_answer, shares, -says_something.astype(np.float64))[order]
    totals = np.cumsum(np.concatenate([[np.count_nonzero(~has_answer)], gains]))
    thresholds = np.concatenate([[0.0], odds[order]])
    best = int(np.argmax(totals))
    return 100.0 * float(totals[best]) / len(shares), float(thresholds[best])


def _percent(shares: np.ndarray) -> float:
    return 100.0 * float(shares.mean())
