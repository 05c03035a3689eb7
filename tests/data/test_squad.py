"""The reader of SQuAD's layouts."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ds_bert.data.squad import Answer, Question, read_squad
from ds_bert.errors import UserError
from tests.support.squad import qa, write_squad

TEXT = "The tower is red."


def test_questions_know_their_context_and_answers(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "a.json", [(TEXT, [qa(1, "What?", [("red", 13)])]), ("", []), ("B", [qa(2, "Who?")])])
    file = read_squad(path, version_2=True)
    assert file.contexts == [TEXT, "", "B"]
    assert file.questions == [Question("1", "What?", 0, (Answer("red", 13),)), Question("2", "Who?", 2, ())]
    assert file.first(1).questions == file.questions[:1]
    assert file.first(1).contexts == [TEXT]
    assert file.first(None) is file and file.first(5) is file


def test_impossible_questions_have_no_answer_whatever_is_listed(tmp_path: Path) -> None:
    entry = qa(1, "What?", [("red", 13)], is_impossible=True, plausible_answers=[])
    assert read_squad(write_squad(tmp_path / "a.json", [(TEXT, [entry])]), True).questions[0].answers == ()


def test_answers_are_not_looked_at_where_they_are_not_needed(tmp_path: Path) -> None:
    entries = [{"id": "1", "question": "What?"}, {"id": "2", "question": "Who?", "answers": "hidden"}]
    file = read_squad(write_squad(tmp_path / "a.json", [(TEXT, entries)]), version_2=False, with_answers=False)
    assert [question.answers for question in file.questions] == [(), ()]


@pytest.mark.parametrize("entry", [qa("q7", "What?"), qa("q7", "What?", [("red", 13)], is_impossible=True)])
def test_a_question_without_answer_needs_version_2(tmp_path: Path, entry: dict[str, Any]) -> None:
    path = write_squad(tmp_path / "a.json", [(TEXT, [entry])])
    with pytest.raises(UserError, match=r"a\.json: data\[0\]\.paragraphs\[0\]\.qas\[0\].*'q7'.*--version_2"):
        read_squad(path, version_2=False)


def test_an_id_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "a.json", [(TEXT, [qa("x", "A?")]), (TEXT, [qa("y", "A?"), qa("x", "B?")])])
    with pytest.raises(UserError, match=r"data\[1\]\.paragraphs\[0\]\.qas\[1\]\.id: 'x'.*unique"):
        read_squad(path, version_2=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the file: a list in place of an object with 'data'"),
        ({"version": "1.1"}, "the file: the key 'data' is missing"),
        ({"data": {}}, r"the file\.data: an object, but SQuAD has a list"),
        ({"data": []}, "no question"),
        ({"data": ["x"]}, r"data\[0\]: a string in place of an object with 'paragraphs'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"data\[0\]\.paragraphs\[0\]: the key 'context' is missing"),
        ({"data": [{"paragraphs": [{"context": None, "qas": []}]}]}, r"paragraphs\[0\]\.context: null"),
        ({"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 3}]}]}]}, r"qas\[0\]\.id: a whole number"),
        ({"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "3"}]}]}]}, r"qas\[0\]: the key 'question'"),
    ],
)
def test_other_layouts_are_refused_by_place_and_key(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        read_squad(path, version_2=True)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["context", "question", "id"])
def test_half_a_surrogate_pair_is_refused_by_place_and_key(tmp_path: Path, key: str) -> None:
    texts = {"context": TEXT, "question": "What?", "id": "1"} | {key: "a \ud83d"}
    entry = qa(texts["id"], texts["question"], [("red", 13)])
    path = write_squad(tmp_path / "a.json", [(texts["context"], [entry])])
    with pytest.raises(UserError, match=rf"a\.json: data\[0\]\.paragraphs\[0\]\S*\.{key}: holds '.ud83d', half"):
        read_squad(path, version_2=False)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"text": "red"}, r"qas\[0\]\.answers\[0\]: the key 'answer_start' is missing"),
        ({"text": "red", "answer_start": "13"}, r"answers\[0\]\.answer_start: a string.*a whole number"),
        ({"text": "red", "answer_start": True}, r"answer_start: true or false"),
        ({"text": "red", "answer_start": 1.5}, r"answer_start: a fraction"),
        ("red", r"answers\[0\]: a string in place of an object"),
    ],
)
def test_odd_answers_are_refused(tmp_path: Path, answer: Any, message: str) -> None:
    path = write_squad(tmp_path / "a.json", [(TEXT, [qa(1, "What?") | {"answers": [answer]}])])
    with pytest.raises(UserError, match=message):
        read_squad(path, version_2=False)


@pytest.mark.skipif("DS_BERT_DATA" not in os.environ, reason="DS_BERT_DATA names no folder of real data")
def test_the_real_files_are_read() -> None:
    folder = Path(os.environ["DS_BERT_DATA"]) / "squad"
    version_1 = read_squad(folder / "dev-v1.1.json", version_2=False)
    assert (len(version_1.questions), len(version_1.contexts)) == (10570, 2067)
    version_2 = read_squad(folder / "dev-v2.0.json", version_2=True)
    assert sum(not question.answers for question in version_2.questions) == 5945
    with pytest.raises(UserError, match="--version_2"):
        read_squad(folder / "dev-v2.0.json", version_2=False)
