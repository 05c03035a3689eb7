"""Reading questions with options to choose among: RACE, DREAM, and JSON lines of a user's own."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_bert.data.tables import whole_text
from ds_bert.errors import UserError
from ds_bert.files import read_json, read_lines

LEVELS = ("high", "middle")  # of RACE's schools
_JSON_NAMES = {str: "string", list: "list", int: "whole number", dict: "object"}


@dataclass(frozen=True)
class Question:
    """A question on a context.

    Args:
        id: unique within its split.
        context: article or dialogue.
        text: what is asked, maybe with a blank ("_") that the options fill in.
        options: what to choose among.
        answer: number of the right option, from 0; None where it is not known.
        group: part of the data set whose accuracy is measured by itself, such as "high"; "" for none.
    """

    id: str
    context: str
    text: str
    options: tuple[str, ...]
    answer: int | None
    group: str = ""


class QuestionList:
    """Collects the questions of a split, and refuses those that do not fit together.

    Args:
        source: names the split's file or folder in messages.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._questions: dict[str, Question] = {}

    def add(self, where: str, question: Question) -> None:
        """Add a question; ``where`` names its place in messages.

        Raises:
            UserError: it has fewer than two options, not as many as those before, or an id that stands there already.
        """
        count, first = len(question.options), next(iter(self._questions.values()), question)
        if count < 2:
            raise UserError(f"{where}: {count} options, at least 2 are needed")
        if count != len(first.options):
            raise UserError(
                f"{where}: {count} options, but the questions before have {len(first.options)}; "
                "all questions of a data set need the same number"
            )
        if question.id in self._questions:
            raise UserError(f"{where}: the id {question.id!r} stands there twice, ids must be unique")
        self._questions[question.id] = question

    def finish(self) -> list[Question]:
        """Return the questions in order; raises `UserError` where there is none."""
        if not self._questions:
            raise UserError(f"{self.source}: no question, at least one is needed")
        return list(self._questions.values())


def value_of(entry: Any, key: str, kind: type, where: str) -> Any:
    """Return ``entry[key]`` if it is of this kind (str, list, int or dict).

    Raises:
        UserError: ``entry`` is no JSON object, lacks the key, or holds something else there.
    """
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: a {_kind_of(entry)}, needed is an object with the key {key!r}")
    if key not in entry:
        keys = ", ".join(map(repr, entry)) or "none"
        raise UserError(f"{where}: no key {key!r} (keys: {keys}), it is needed")
    if type(entry[key]) is not kind:
        raise UserError(f"{where}: {key} is a {_kind_of(entry[key])}, needed is a {_JSON_NAMES[kind]}")
    return whole_text(entry[key]) if kind is str else entry[key]


def texts_of(values: Any, where: str) -> tuple[str, ...]:
    """Return a list of strings as a tuple; raises `UserError` where it is anything else."""
    if type(values) is not list:
        raise UserError(f"{where}: a {_kind_of(values)}, needed is a list of strings")
    for place, value in enumerate(values):
        if type(value) is not str:
            raise UserError(f"{where}[{place}] is a {_kind_of(value)}, needed is a string")
    return tuple(map(whole_text, values))


def _kind_of(value: Any) -> str:
    return _JSON_NAMES.get(type(value), type(value).__name__)


def read_own_questions(path: Path, with_answers: bool = True) -> list[Question]:
    """Read JSON lines: ``{"context": …, "question": …, "options": […], "label": …}``, maybe with an ``id``.

    Args:
        path: one question a line; ``label`` is the number of the right option, from 0. Without an ``id``, the line's
            number is taken.
        with_answers: whether a label is needed; where not, one that is there is read all the same.

    Raises:
        UserError: naming the line and the key.
    """
    questions = QuestionList(path)
    for number, entry in _json_lines(path):
        where = f"{path}: line {number}"
        context, text = value_of(entry, "context", str, where), value_of(entry, "question", str, where)
        options = texts_of(value_of(entry, "options", list, where), f"{where}: options")
        label = value_of(entry, "label", int, where) if with_answers or "label" in entry else None
        if label is not None and not 0 <= label < len(options):
            raise UserError(f"{where}: label is {label}, but the options have the numbers 0 to {len(options) - 1}")
        name = value_of(entry, "id", str, where) if "id" in entry else str(number)
        questions.add(where, Question(name, context, text, options, label))
    return questions.finish()


def _json_lines(path: Path) -> Iterable[tuple[int, Any]]:
    for number, line in read_lines(path):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number}: not JSON ({error}), one object a line is needed") from None


def read_race(data_dir: Path, split: str, levels: Sequence[str] = LEVELS, with_answers: bool = True) -> list[Question]:
    """Read a split in RACE's official layout, ``{train,dev,test}/{high,middle}/*.txt``, one article a file.

    Args:
        data_dir: the folder ``RACE``, or the one it lies in.
        split: "train", "dev" or "test".
        levels: which of `LEVELS` to read; a question's level is its group.
        with_answers: whether answers are needed; where not, those that are there are read all the same.

    Returns:
        Questions whose ids are the article's and, after a hyphen, the question's number in it, from 0. Articles come in
        the order of their file's numbers.

    Raises:
        UserError: a folder is missing or has no file, or a file is not of this layout.
    """
    root = data_dir / "RACE" if (data_dir / "RACE").is_dir() else data_dir
    questions = QuestionList(root / split)
    for level in levels:
        folder = root / split / level
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; RACE needs {split}/{level}/*.txt in --data_dir")
        files = sorted(folder.glob("*.txt"), key=lambda file: (len(file.name), file.name))
        if not files:
            raise UserError(f"{folder}: no *.txt in this folder, at least one article is needed")
        for file in files:
            _read_article(file, level, with_answers, questions)
    return questions.finish()


def _read_article(file: Path, level: str, with_answers: bool, questions: QuestionList) -> None:
    entry, where = read_json(file), str(file)
    article, name = value_of(entry, "article", str, where), value_of(entry, "id", str, where)
    texts = texts_of(value_of(entry, "questions", list, where), f"{where}: questions")
    options = value_of(entry, "options", list, where)
    has_answers = with_answers or "answers" in entry
    letters = texts_of(value_of(entry, "answers", list, where), f"{where}: answers") if has_answers else ()
    for key, found in (("options", options), ("answers", letters)):
        if len(found) != len(texts) and (key == "options" or has_answers):
            raise UserError(f"{where}: {key} has {len(found)} entries, but there are {len(texts)} questions")
    for number, text in enumerate(texts):
        choices = texts_of(options[number], f"{where}: options[{number}]")
        answer = _option_of(letters[number], len(choices), f"{where}: answers[{number}]") if has_answers else None
        question = Question(f"{name}-{number}", article, text, choices, answer, level)
        questions.add(f"{where}: question {number}", question)


def _option_of(letter: str, num_options: int, where: str) -> int:
    """Turn an answer's letter into the option's number; A is 0."""
    last = chr(ord("A") + num_options - 1)
    if len(letter) != 1 or not "A" <= letter <= last:
        raise UserError(f"{where} is {letter!r}, needed is a letter from A to {last}, one of the options")
    return ord(letter) - ord("A")


def read_dream(data_dir: Path, split: str, with_answers: bool = True) -> list[Question]:
    """Read a split in DREAM's layout, ``{train,dev,test}.json``: ``[[turns, [{question, choice, answer}], id], …]``.

    Args:
        data_dir: the folder of the three files.
        split: "train", "dev" or "test".
        with_answers: whether answers are needed; where not, those that are there are read all the same.

    Returns:
        Questions whose context is the dialogue, a turn a line, and whose ids are the dialogue's and, after a hyphen,
        the question's number in it, from 0.

    Raises:
        UserError: the file is missing or not of this layout, or an answer is not among its options.
    """
    path = data_dir / f"{split}.json"
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: holds a {type(content).__name__}, needed is a list of dialogues")
    questions = QuestionList(path)
    for number, dialogue in enumerate(content):
        where = f"{path}: [{number}]"
        if not isinstance(dialogue, list) or len(dialogue) != 3 or not isinstance(dialogue[2], str):
            raise UserError(f"{where} is no dialogue, needed is a list of turns, questions and an id")
        context, name = "\n".join(texts_of(dialogue[0], f"{where}[0]")), whole_text(dialogue[2])
        if not isinstance(dialogue[1], list):
            raise UserError(f"{where}[1] is no list, needed is a list of questions")
        for place, entry in enumerate(dialogue[1]):
            at = f"{where}[1][{place}]"
            questions.add(at, _dream_question(entry, f"{name}-{place}", context, with_answers, at))
    return questions.finish()


def _dream_question(entry: Any, name: str, context: str, with_answers: bool, where: str) -> Question:
    text, choices = value_of(entry, "question", str, where), value_of(entry, "choice", list, where)
    options = texts_of(choices, f"{where}.choice")
    if not with_answers and "answer" not in entry:
        return Question(name, context, text, options, None)
    answer = value_of(entry, "answer", str, where)
    if answer not in options:
        raise UserError(f"{where}: the answer {answer!r} is not among the options {list(options)}")
    return Question(name, context, text, options, options.index(answer))
