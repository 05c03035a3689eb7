"""From a model's scores to answers: the best spans of each window, and of all windows of a question."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ds_bert.data.features import Features
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import write_json
from ds_bert.tasks.squad.features import best_windows, tokenise_contexts
from ds_bert.tasks.squad.reading import SquadFile
from ds_bert.tasks.task import Outputs

_CERTAINLY_NONE = 1e6  # the odds of a question without any window


@dataclass(frozen=True)
class AnswerSettings:
    """How answers are found.

    Args:
        beam: whether the outputs are those of the head "beam-question-answering", else of "question-answering".
        version_2: whether questions may have no answer.
        n_best_size: answers of a question that are kept, "no answer" not counted.
        max_answer_length: tokens of an answer at most.
        null_score_threshold: questions whose odds of having no answer are above it are answered with "".

    Raises:
        UserError: a number of answers or tokens is below 1.
    """

    beam: bool = False
    version_2: bool = False
    n_best_size: int = 20
    max_answer_length: int = 30
    null_score_threshold: float = 0.0

    def __post_init__(self) -> None:
        for name in ("n_best_size", "max_answer_length"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: at least 1 is needed")


class Candidate(NamedTuple):
    """An answer: its text and the scores of its start and its end (logits, or the beam head's log-probabilities)."""

    text: str
    start: float
    end: float


class QuestionAnswers(NamedTuple):
    """The answers of a question.

    Attributes:
        best: the best text; "" only where there is no window or no span.
        null_odds: the higher, the less likely there is an answer. Span head: the smallest score of [CLS] as start and
            end in any window, less that of the best span. Beam head: the smallest answerability logit in any window.
        n_best: best first; for the span head on v2.0, "" with the scores of [CLS] is among them.
    """

    best: str
    null_odds: float
    n_best: list[Candidate]


class _Spans(NamedTuple):
    """Spans of a window, best first: first and last token, counted in the window, and scores; all (spans,)."""

    firsts: np.ndarray
    lasts: np.ndarray
    start_scores: np.ndarray
    end_scores: np.ndarray


def find_answers(
    outputs: Sequence[Outputs], features: Features, file: SquadFile, tokenizer: Tokenizer, settings: AnswerSettings
) -> list[QuestionAnswers]:
    """Find the answers of all questions; a text is always a part of the context, to the character.

    A span begins in the window where its first token has most context (see `best_windows`), ends in the same window and
    is not longer than allowed. Spans of like text count once.

    Args:
        outputs: of each window, (T,) ``start_logits`` and ``end_logits``, or the beam head's.
        features: the windows, of `ds_bert.tasks.squad.features.encode_squad` without ``training``.
        file: what they were encoded from, with ``tokenizer``.
        tokenizer: finds the characters of the contexts' tokens again.
        settings: how answers are found.
    """
    columns = features.columns
    contexts = tokenise_contexts(tokenizer, file.contexts)
    bounds = np.searchsorted(columns["question"], np.arange(len(file.questions) + 1))
    lengths = columns["context_end"] - columns["context_begin"]
    context_begins = np.asarray(columns["context_begin"]).tolist()
    answers = []
    for number, question in enumerate(file.questions):
        windows = range(bounds[number], bounds[number + 1])
        if not windows:
            answers.append(QuestionAnswers("", _CERTAINLY_NONE, [Candidate("", 0.0, 0.0)]))
            continue
        first_tokens = columns["first_token"][windows.start : windows.stop]
        may_begin = best_windows(first_tokens, lengths[windows.start : windows.stop])
        find = _beam_spans if settings.beam else _best_spans
        found = [
            find(outputs[window], context_begins[window], allowed, settings)
            for window, allowed in zip(windows, may_begin, strict=True)
        ]
        spans = _merge(found, contexts.starts[question.context] + first_tokens)
        characters = zip(contexts.begins[spans.firsts].tolist(), contexts.ends[spans.lasts].tolist(), strict=True)
        context = file.contexts[question.context]
        texts = [context[begin:end].strip() for begin, end in characters]
        candidates = _distinct(texts, spans, settings.n_best_size)
        answers.append(_decide(candidates, [outputs[window] for window in windows], settings))
    return answers


def write_answers(
    answers: Sequence[QuestionAnswers], file: SquadFile, settings: AnswerSettings, folder: Path, prefix: str = ""
) -> list[Path]:
    """Write ``predictions.json``, ``nbest_predictions.json`` and, for v2.0, ``null_odds.json``, each by question id.

    Predictions are texts, "" where the odds of having no answer are above the threshold. The n best have ``text``,
    ``probability`` (a softmax over them), and ``start_logit`` and ``end_logit``, or for the beam head
    ``start_log_prob`` and ``end_log_prob``.
    """
    ids = [question.id for question in file.questions]
    contents: dict[str, dict] = {
        "predictions": dict(zip(ids, (decided(answer, settings) for answer in answers), strict=True)),
        "nbest_predictions": dict(zip(ids, (_n_best_entries(answer, settings) for answer in answers), strict=True)),
    }
    if settings.version_2:
        contents["null_odds"] = dict(zip(ids, (answer.null_odds for answer in answers), strict=True))
    paths = []
    for name, content in contents.items():
        paths.append(folder / f"{prefix}{name}.json")
        write_json(paths[-1], content)
    return paths


def decided(answer: QuestionAnswers, settings: AnswerSettings) -> str:
    """The text that is predicted: for v2.0, "" where the odds of having no answer are above the threshold."""
    return "" if settings.version_2 and answer.null_odds > settings.null_score_threshold else answer.best


def _best_spans(output: Outputs, context_begin: int, may_begin: np.ndarray, settings: AnswerSettings) -> _Spans:
    """The best spans of a window, of all that begin where they may and are not too long."""
    context = slice(context_begin, context_begin + len(may_begin))
    starts = output["start_logits"][context].astype(np.float64)
    ends = output["end_logits"][context].astype(np.float64)
    width = min(settings.max_answer_length, len(starts))
    ends_by_length = np.lib.stride_tricks.sliding_window_view(np.append(ends, np.full(width - 1, -np.inf)), width)
    scores = np.where(may_begin, starts, -np.inf)[:, None] + ends_by_length
    chosen = np.arange(scores.size)
    if scores.size > settings.n_best_size:
        chosen = np.argpartition(scores, -settings.n_best_size, axis=None)[-settings.n_best_size :]
    chosen = chosen[np.isfinite(scores.flat[chosen])]
    firsts, extra = np.divmod(chosen, width)
    return _Spans(firsts, firsts + extra, starts[firsts], ends[firsts + extra])


def _beam_spans(output: Outputs, context_begin: int, may_begin: np.ndarray, settings: AnswerSettings) -> _Spans:
    """The spans of a window's beam that lie in the context, begin where they may and are not too long."""
    lasts = output["end_top_index"].astype(np.int64) - context_begin
    firsts = np.broadcast_to(output["start_top_index"].astype(np.int64)[:, None] - context_begin, lasts.shape)
    start_scores = np.broadcast_to(output["start_top_log_probs"].astype(np.float64)[:, None], lasts.shape)
    in_context = (firsts >= 0) & (lasts < len(may_begin))
    fits = in_context & (firsts <= lasts) & (lasts - firsts < settings.max_answer_length)
    fits[fits] = may_begin[firsts[fits]]
    end_scores = output["end_top_log_probs"].astype(np.float64)
    fits &= np.isfinite(start_scores + end_scores)
    return _Spans(firsts[fits], lasts[fits], start_scores[fits], end_scores[fits])


def _merge(found: Sequence[_Spans], first_tokens: np.ndarray) -> _Spans:
    """Put the spans of a question's windows in one order, their tokens counted from 0 instead of the window's first."""
    firsts = np.concatenate([spans.firsts + first for spans, first in zip(found, first_tokens, strict=True)])
    lasts = np.concatenate([spans.lasts + first for spans, first in zip(found, first_tokens, strict=True)])
    starts = np.concatenate([spans.start_scores for spans in found])
    ends = np.concatenate([spans.end_scores for spans in found])
    order = np.lexsort((lasts, firsts, -(starts + ends)))
    return _Spans(firsts[order], lasts[order], starts[order], ends[order])


def _distinct(texts: Sequence[str], spans: _Spans, count: int) -> list[Candidate]:
    best: dict[str, Candidate] = {}
    for text, start, end in zip(texts, spans.start_scores.tolist(), spans.end_scores.tolist(), strict=True):
        if text and text not in best:
            best[text] = Candidate(text, start, end)
            if len(best) == count:
                break
    return list(best.values())


def _decide(candidates: list[Candidate], outputs: Sequence[Outputs], settings: AnswerSettings) -> QuestionAnswers:
    best = candidates[0] if candidates else Candidate("", 0.0, 0.0)
    n_best = candidates or [best]
    if settings.beam:
        return QuestionAnswers(best.text, min(float(output["answer_logits"]) for output in outputs), n_best)
    nulls = [Candidate("", float(output["start_logits"][0]), float(output["end_logits"][0])) for output in outputs]
    null = min(nulls, key=_total)
    if settings.version_2:
        n_best = sorted([*candidates, null], key=_total, reverse=True)
    odds = _total(null) - _total(best) if candidates else _CERTAINLY_NONE
    return QuestionAnswers(best.text, odds, n_best)


def _total(candidate: Candidate) -> float:
    return candidate.start + candidate.end


def _n_best_entries(answer: QuestionAnswers, settings: AnswerSettings) -> list[dict[str, str | float]]:
    kind = "log_prob" if settings.beam else "logit"
    totals = np.array([_total(candidate) for candidate in answer.n_best])
    weights = np.exp(totals - totals.max())
    return [
        {"text": each.text, "probability": probability, f"start_{kind}": each.start, f"end_{kind}": each.end}
        for each, probability in zip(answer.n_best, (weights / weights.sum()).tolist(), strict=True)
    ]
