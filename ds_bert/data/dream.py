"""Reading DREAM: questions on dialogues from examinations in English (Sun et al. 2019)."""

from pathlib import Path
from typing import Any

from ds_bert.data.multiple_choice import Question, QuestionList, texts_of, value_of
from ds_bert.data.tables import whole_text
from ds_bert.errors import UserError
from ds_bert.files import read_json


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
            questions.add(at, _question(entry, f"{name}-{place}", context, with_answers, at))
    return questions.finish()


def _question(entry: Any, name: str, context: str, with_answers: bool, where: str) -> Question:
    text, choices = value_of(entry, "question", str, where), value_of(entry, "choice", list, where)
    options = texts_of(choices, f"{where}.choice")
    if not with_answers and "answer" not in entry:
        return Question(name, context, text, options, None)
    answer = value_of(entry, "answer", str, where)
    if answer not in options:
        raise UserError(f"{where}: the answer {answer!r} is not among the options {list(options)}")
    return Question(name, context, text, options, options.index(answer))
