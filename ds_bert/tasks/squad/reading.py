"""Reading questions on paragraphs in the layouts of SQuAD v1.1 and v2.0."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from ds_bert.errors import UserError
from ds_bert.files import read_json

_WORD = re.compile(r"\S+")
_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair: JSON's escapes may hold it, and it is no text


class Answer(NamedTuple):
    """A span of the context: its text and the character it begins at."""

    text: str
    start: int


class Question(NamedTuple):
    """A question: its id, its text, the number of its context, and its answers; none where it has no answer."""

    id: str
    text: str
    context: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class SquadFile:
    """The contexts and questions of a file.

    Args:
        path: where they stand, for messages.
        contexts: paragraphs.
        questions: in the file's order.
        has_answers: whether answers were read: a question without one has none.
    """

    path: Path
    contexts: list[str]
    questions: list[Question]
    has_answers: bool = True

    def first(self, count: int | None) -> "SquadFile":
        """Keep the first ``count`` questions (None: all) and the contexts up to theirs."""
        if count is None or count >= len(self.questions):
            return self
        questions = self.questions[:count]
        contexts = self.contexts[: max((question.context for question in questions), default=-1) + 1]
        return replace(self, contexts=contexts, questions=questions)


def read_squad(path: Path, version_2: bool, with_answers: bool = True, with_ids: bool = True) -> SquadFile:
    """Read a file of questions.

    Args:
        path: ``{"data": [{"paragraphs": [{"context": …, "qas": [{"id": …, "question": …, "answers": [{"text": …,
            "answer_start": …}], "is_impossible": …}]}]}]}``; ``is_impossible`` may be left out, an id may be a number.
        version_2: whether questions may have no answer.
        with_answers: whether answers are needed; where not, those that are there are not read.
        with_ids: whether questions are told apart by their ids, as prediction files do; where not, ids may be missing,
            or stand there twice.

    Raises:
        UserError: the file is not of this layout, an id stands there twice, a text holds half a surrogate pair, it has
            no question, or a question has no answer where it needs one.
    """
    reader = _Reader(path, version_2, with_answers, with_ids)
    reader.read(read_json(path))
    if not reader.questions:
        raise UserError(f"{path}: data: no question in this file, at least one is needed")
    return SquadFile(path, reader.contexts, reader.questions, with_answers)


def find_answer(context: str, answer: Answer) -> Answer | None:
    """Find an answer where it says to be, or else in the words there.

    Files are off by a character or two where the text was changed, or counted in other units, after it was annotated.
    Whole words forgive that: those of which the claimed characters are a part, a blank counted to the word before it.
    "river" at 1 of "red river" claims "ed riv", so it may be in "red river", and is, at 4. White space is all alike.
    (The answers that this finds are those that BERT's run_squad.py keeps: Devlin et al. 2019.)

    Returns:
        The answer with its text as it is in the context; None where it is not in these words.
    """
    start, end = answer.start, answer.start + len(answer.text)
    if not (0 <= start < len(context) and answer.text.strip()):
        return None
    if context[start:end] == answer.text:
        return answer
    begin, end = start, min(end, len(context))
    while begin and context[begin].isspace():
        begin -= 1
    while begin and not context[begin - 1].isspace():
        begin -= 1
    while end < len(context) and not (context[end - 1].isspace() or context[end].isspace()):
        end += 1
    return _nearest(context, begin, end, answer.text.split(), start)


def _nearest(context: str, begin: int, end: int, words: Sequence[str], start: int) -> Answer | None:
    """Find words between ``begin`` and ``end`` of a context, where they begin nearest to ``start``.

    Looked for once forwards and once backwards, with white space as single blanks: in time that the lengths add up to.
    """
    there = list(_WORD.finditer(context, begin, end))
    text, wanted = " ".join(word[0] for word in there), " ".join(words)
    places = list(accumulate((len(word[0]) + 1 for word in there), initial=0))  # of the words in text
    middle = bisect_left([word.start() for word in there], start + 1) - 1
    here = places[middle] + min(start - there[middle].start(), len(there[middle][0])) if middle >= 0 else 0
    after = text.find(wanted, here)
    from_end = text[::-1].find(wanted[::-1], max(0, len(text) - here - len(wanted)))
    before = len(text) - from_end - len(wanted) if from_end >= 0 else -1

    def place_in_context(place: int) -> int:
        number = bisect_right(places, place) - 1
        return there[number].start() + place - places[number]

    answers = []
    for place in (before, after):
        if place >= 0:
            first, last = place_in_context(place), place_in_context(place + len(wanted) - 1)
            answers.append(Answer(context[first : last + 1], first))
    return min(answers, key=lambda each: abs(each.start - start), default=None)


class _Reader:
    def __init__(self, path: Path, version_2: bool, with_answers: bool, with_ids: bool) -> None:
        self.path, self.version_2, self.with_answers, self.with_ids = path, version_2, with_answers, with_ids
        self.contexts: list[str] = []
        self.questions: list[Question] = []
        self._ids: set[str] = set()

    def read(self, content: Any) -> None:
        for a, article in enumerate(self._get(content, "data", list, "the file")):
            for p, paragraph in enumerate(self._get(article, "paragraphs", list, f"data[{a}]")):
                where = f"data[{a}].paragraphs[{p}]"
                self.contexts.append(self._get(paragraph, "context", str, where))
                for q, question in enumerate(self._get(paragraph, "qas", list, where)):
                    self._add(question, f"{where}.qas[{q}]")

    def _add(self, entry: Any, where: str) -> None:
        question_id = self._id(entry, where) if self.with_ids else where
        text = self._get(entry, "question", str, where)
        if question_id in self._ids:
            raise UserError(f"{self.path}: {where}.id: {question_id!r} stands there twice, ids must be unique")
        self._ids.add(question_id)
        answers = self._answers(entry, where) if self.with_answers else ()
        self.questions.append(Question(question_id, text, len(self.contexts) - 1, answers))

    def _id(self, entry: Any, where: str) -> str:
        """A question's id as prediction files write it."""
        is_number = isinstance(entry, dict) and type(entry.get("id")) is int
        return str(entry["id"]) if is_number else self._get(entry, "id", str, where)

    def _answers(self, entry: Any, where: str) -> tuple[Answer, ...]:
        impossible = "is_impossible" in entry and self._get(entry, "is_impossible", bool, where)
        if impossible:
            answers: tuple[Answer, ...] = ()
        else:
            found = enumerate(self._get(entry, "answers", list, where))
            answers = tuple(self._answer(answer, f"{where}.answers[{number}]") for number, answer in found)
        if not answers and not self.version_2:
            asked = entry.get("id", entry["question"])
            raise UserError(
                f"{self.path}: {where}: the question {asked!r} has no answer, which only SQuAD v2.0 has; "
                "give --version_2, or a file of SQuAD v1.1"
            )
        return answers

    def _answer(self, entry: Any, where: str) -> Answer:
        return Answer(self._get(entry, "text", str, where), self._get(entry, "answer_start", int, where))

    def _get(self, entry: Any, key: str, kind: type, where: str) -> Any:
        if not isinstance(entry, dict):
            raise UserError(f"{self.path}: {where}: {_KINDS[type(entry)]} in place of {_KINDS[dict]} with {key!r}")
        if key not in entry:
            raise UserError(f"{self.path}: {where}: the key {key!r} is missing, which SQuAD's layout needs")
        value = entry[key]
        if type(value) is not kind:
            raise UserError(f"{self.path}: {where}.{key}: {_KINDS[type(value)]}, but SQuAD has {_KINDS[kind]} here")
        if isinstance(value, str) and (half := _HALF.search(value)):
            raise UserError(
                f"{self.path}: {where}.{key}: holds {half[0]!r}, half a surrogate pair; both halves are needed"
            )
        return value


_KINDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    float: "a fraction",
    bool: "true or false",
    type(None): "null",
}
