import json
import os
from pathlib import Path
from typing import Any

import pytest

from ds_bert.errors import UserError
from ds_bert.tasks.multiple_choice.reading import Question, read_dream

QUESTION = {"question": "Where?", "choice": ["Here.", "There."], "answer": "There."}
DIALOGUE = [["M: Hello.", "W: Bye."], [QUESTION, QUESTION | {"answer": "Here."}], "5-1"]


def write(folder: Path, content: Any) -> Path:
    (folder / "dev.json").write_text(json.dumps(content))
    return folder


def test_a_turn_is_a_line_and_questions_are_numbered(tmp_path: Path) -> None:
    first, second = read_dream(write(tmp_path, [DIALOGUE]), "dev")
    assert first == Question("5-1-0", "M: Hello.\nW: Bye.", "Where?", ("Here.", "There."), 1)
    assert (second.id, second.answer) == ("5-1-1", 0)


def test_answers_may_be_unknown_where_they_are_not_needed(tmp_path: Path) -> None:
    asked = {key: QUESTION[key] for key in ("question", "choice")}
    folder = write(tmp_path, [[["M: Hello."], [asked], "1"]])
    assert read_dream(folder, "dev", with_answers=False)[0].answer is None
    with pytest.raises(UserError, match=r"dev.json: \[0\]\[1\]\[0\]: no key 'answer'"):
        read_dream(folder, "dev")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "dev.json: holds a dict, needed is a list of dialogues"),
        ([], "dev.json: no question"),
        ([[["M: Hello."], [], "1"]], "dev.json: no question"),
        ([DIALOGUE, DIALOGUE[:2]], r"dev.json: \[1\] is no dialogue"),
        ([[["M: Hello."], [QUESTION], 7]], r"dev.json: \[0\] is no dialogue"),
        ([["M: Hello.", [QUESTION], "1"]], r"dev.json: \[0\]\[0\]: a string, needed is a list of strings"),
        ([[["M: Hello."], QUESTION, "1"]], r"dev.json: \[0\]\[1\] is no list"),
        (
            [[[], [QUESTION | {"answer": "Away."}], "1"]],
            r"\[0\]\[1\]\[0\]: the answer 'Away.' is not among the options",
        ),
        ([[[], [QUESTION | {"choice": ["There."]}], "1"]], r"\[0\]\[1\]\[0\]: 1 options"),
        ([[[], [QUESTION, QUESTION | {"choice": ["There.", "a", "b"]}], "1"]], r"\[1\]\[1\]: 3 options, but"),
        ([DIALOGUE, DIALOGUE], r"\[1\]\[1\]\[0\]: the id '5-1-0' stands there twice"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_dream(write(tmp_path, content), "dev")


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"test.json: no such file"):
        read_dream(tmp_path, "test")


@pytest.mark.skipif("DS_BERT_DATA" not in os.environ, reason="DS_BERT_DATA names no folder with the real data")
def test_the_real_data_set() -> None:
    folder = Path(os.environ["DS_BERT_DATA"]) / "dream"
    for split, count in (("train", 6116), ("dev", 2040), ("test", 2041)):
        questions = read_dream(folder, split)
        assert len(questions) == count
        assert {len(question.options) for question in questions} == {3}
