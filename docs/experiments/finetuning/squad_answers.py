"""SQuAD without ds_bert: reading, the best span of a question's windows, exact match and F1."""

import collections
import json
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Question(NamedTuple):
    """A question; ``answers`` are (text, first character), none where it has no answer."""

    id: str
    text: str
    context: str
    answers: list[tuple[str, int]]


class Window(NamedTuple):
    """A sequence of a question: which characters each token stands for, None where it is not of the context."""

    question: int
    offsets: list[tuple[int, int] | None]


def read(path: Path, limit: int | None) -> list[Question]:
    """Return a file's first ``limit`` questions."""
    paragraphs = [paragraph for article in json.loads(path.read_text())["data"] for paragraph in article["paragraphs"]]
    return [
        Question(
            entry["id"],
            entry["question"],
            paragraph["context"],
            [(answer["text"], answer["answer_start"]) for answer in entry["answers"]],
        )
        for paragraph in paragraphs
        for entry in paragraph["qas"]
    ][:limit]


def best_answers(
    questions: Sequence[Question],
    windows: Sequence[Window],
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    may_be_empty: bool,
    n_best: int = 20,
    max_answer_length: int = 30,
) -> dict[str, str]:
    """Return each question's answer: the span with the highest sum of logits over its windows, or "".

    Args:
        questions: the questions.
        windows: their windows.
        start_logits: (windows, T).
        end_logits: (windows, T).
        may_be_empty: whether there may be no answer: given where [CLS] has more than the best span.
        n_best: starts and ends of a window that are looked at.
        max_answer_length: most tokens of an answer.
    """
    best: dict[int, tuple[float, str]] = {}
    empty: dict[int, float] = {}
    for window, starts, ends in zip(windows, start_logits, end_logits, strict=True):
        number = window.question
        empty[number] = min(empty.get(number, np.inf), float(starts[0] + ends[0]))
        top_starts, top_ends = (np.argsort(-logits[: len(window.offsets)])[:n_best] for logits in (starts, ends))
        for start in top_starts:
            for end in top_ends:
                first, last = window.offsets[start], window.offsets[end]
                if first is None or last is None or not 0 <= end - start < max_answer_length:
                    continue
                score = float(starts[start] + ends[end])
                if score > best.get(number, (-np.inf, ""))[0]:
                    best[number] = score, questions[number].context[first[0] : last[1]]
    answers = {}
    for number, question in enumerate(questions):
        score, text = best.get(number, (-np.inf, ""))
        answers[question.id] = "" if may_be_empty and empty[number] > score else text
    return answers


def measures(questions: Sequence[Question], answers: Mapping[str, str]) -> dict[str, float]:
    """Return exact match and F1 in percent, each the best over a question's answers."""
    exact, f1 = [], []
    for question in questions:
        golds = [words(text) for text, _ in question.answers] or [[]]
        given = words(answers[question.id])
        exact.append(max(given == gold for gold in golds))
        f1.append(max(_f1(given, gold) for gold in golds))
    return {"exact_match": 100 * float(np.mean(exact)), "f1": 100 * float(np.mean(f1))}


def words(text: str) -> list[str]:
    """Return a text's words in lower case, without punctuation and articles."""
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _f1(given: list[str], gold: list[str]) -> float:
    if not given or not gold:
        return float(given == gold)
    common = sum((collections.Counter(given) & collections.Counter(gold)).values())
    return 2 * common / (len(given) + len(gold))
