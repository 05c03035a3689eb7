"""Reading questions on paragraphs in the layouts of SQuAD v1.1 and v2.0."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ds_bert.errors import UserError
from ds_bert.files import read_json

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
    """

    path: Path
    contexts: list[str]
    questions: list[Question]

    def first(self, count: int | None) -> "SquadFile":
        """Keep the first ``count`` questions (None: all) and the contexts up to theirs."""
        if count is None or count >= len(self.questions):
            return self
        questions = self.questions[:count]
        contexts = self.contexts[: max((question.context for question in questions), default=-1) + 1]
        return SquadFile(self.path, contexts, questions)


def read_squad(path: Path, version_2: bool, with_answers: bool = True) -> SquadFile:
    """Read a file of questions.

    Args:
        path: ``{"data": [{"paragraphs": [{"context": …, "qas": [{"id": …, "question": …, "answers": [{"text": …,
            "answer_start": …}], "is_impossible": …}]}]}]}``; ``is_impossible`` may be left out.
        version_2: whether questions may have no answer.
        with_answers: whether answers are needed; where not, those that are there are not read.

    Raises:
        UserError: the file is not of this layout, an id stands there twice, a text holds half a surrogate pair, it has
            no question, or a question has no answer where it needs one.
    """
    reader = _Reader(path, version_2, with_answers)
    reader.read(read_json(path))
    if not reader.questions:
        raise UserError(f"{path}: data: no question in this file, at least one is needed")
    return SquadFile(path, reader.contexts, list(reader.questions.values()))


class _Reader:
    def __init__(self, path: Path, version_2: bool, with_answers: bool) -> None:
        self.path, self.version_2, self.with_answers = path, version_2, with_answers
        self.contexts: list[str] = []
        self.questions: dict[str, Question] = {}

    def read(self, content: Any) -> None:
        for a, article in enumerate(self._get(content, "data", list, "the file")):
            for p, paragraph in enumerate(self._get(article, "paragraphs", list, f"data[{a}]")):
                where = f"data[{a}].paragraphs[{p}]"
                self.contexts.append(self._get(paragraph, "context", str, where))
                for q, question in enumerate(self._get(paragraph, "qas", list, where)):
                    self._add(question, f"{where}.qas[{q}]")

    def _add(self, entry: Any, where: str) -> None:
        question_id, text = self._get(entry, "id", str, where), self._get(entry, "question", str, where)
        if question_id in self.questions:
            raise UserError(f"{self.path}: {where}.id: {question_id!r} stands there twice, ids must be unique")
        answers = self._answers(entry, where) if self.with_answers else ()
        self.questions[question_id] = Question(question_id, text, len(self.contexts) - 1, answers)

    def _answers(self, entry: Any, where: str) -> tuple[Answer, ...]:
        impossible = "is_impossible" in entry and self._get(entry, "is_impossible", bool, where)
        if impossible:
            answers: tuple[Answer, ...] = ()
        else:
            found = enumerate(self._get(entry, "answers", list, where))
            answers = tuple(self._answer(answer, f"{where}.answers[{number}]") for number, answer in found)
        if not answers and not self.version_2:
            raise UserError(
                f"{self.path}: {where}: the question {entry['id']!r} has no answer, which only SQuAD v2.0 has; "
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
