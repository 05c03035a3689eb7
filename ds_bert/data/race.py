"""Reading RACE: examinations in reading of Chinese middle and high schools (Lai et al. 2017)."""

from collections.abc import Sequence
from pathlib import Path

from ds_bert.data.multiple_choice import Question, QuestionList, texts_of, value_of
from ds_bert.errors import UserError
from ds_bert.files import read_json

LEVELS = ("high", "middle")


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
