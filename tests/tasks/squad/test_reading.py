"""The reader of SQuAD's layouts."""

import codecs
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ds_bert.errors import UserError
from ds_bert.tasks.squad.reading import Answer, Question, find_answer, read_squad
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


@pytest.mark.parametrize(("first", "second"), [("x", "x"), (7, 7), (7, "7")])
def test_an_id_that_stands_there_twice_is_refused(tmp_path: Path, first: Any, second: Any) -> None:
    qas = [qa("y", "A?"), qa("x", "B?") | {"id": second}]
    path = write_squad(tmp_path / "a.json", [(TEXT, [qa("x", "A?") | {"id": first}]), (TEXT, qas)])
    with pytest.raises(UserError, match=rf"data\[1\]\.paragraphs\[0\]\.qas\[1\]\.id: '{second}'.*unique"):
        read_squad(path, version_2=True)
    assert len(read_squad(path, version_2=True, with_ids=False).questions) == 3


def test_ids_may_be_numbers_and_training_needs_none(tmp_path: Path) -> None:
    entries = [qa("x", "A?") | {"id": number} for number in (262, 0, -5)]
    path = write_squad(tmp_path / "a.json", [(TEXT, entries)])
    assert [question.id for question in read_squad(path, version_2=True).questions] == ["262", "0", "-5"]
    for entry, rest in zip(entries, ({}, {"id": None}, {"id": 2.5}), strict=True):
        del entry["id"]
        entry |= rest
    path = write_squad(tmp_path / "b.json", [(TEXT, entries)])
    assert len(read_squad(path, version_2=True, with_ids=False).questions) == 3
    entries[0]["answers"] = []
    with pytest.raises(UserError, match="the question 'A\\?' has no answer"):
        read_squad(write_squad(tmp_path / "c.json", [(TEXT, entries[:1])]), version_2=False, with_ids=False)


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "a.json", [(TEXT, [qa("x", "A?")])])
    plain = read_squad(path, version_2=True)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert read_squad(path, version_2=True) == plain


def kept_by_words(context: str, answer: Answer) -> bool:
    """Whether BERT's own code trains on an answer: by the number of the word that each character is in."""
    words, number_of_word = [""], []
    for character in context:
        if character.isspace():
            words += [""] if words[-1] else []
        else:
            words[-1] += character
        number_of_word.append(len(words) - 1 - (character.isspace() and not words[-1]))
    last = min(answer.start + len(answer.text), len(context)) - 1
    if not 0 <= answer.start <= last or not answer.text.split():
        return False
    claimed = words[max(number_of_word[answer.start], 0) : number_of_word[last] + 1]
    return " ".join(answer.text.split()) in " ".join(claimed)


def test_answers_beside_their_place_are_found_where_berts_code_finds_them() -> None:
    chance, kept = random.Random(0), Counter[tuple[int, bool]]()
    for _ in range(8000):
        words = [
            chance.choice(["a", "in", "red", "river", "rivers,", "towering", "(north)", "8", "18"]) for _ in range(9)
        ]
        context = "".join(word + chance.choice([" ", " ", "  ", "\n", "\t"]) for word in words)
        begin, shift = chance.randrange(len(context) - 1), chance.randint(-6, 6)
        text = context[begin : begin + chance.randint(1, 14)]
        claimed = Answer(" ".join(text.split()) if chance.random() < 0.5 else text, begin + shift)
        found = find_answer(context, claimed)
        assert (found is not None) == kept_by_words(context, claimed), (context, claimed)
        kept[abs(shift), found is not None] += bool(text.strip())
        if found is not None:
            assert context[found.start : found.start + len(found.text)] == found.text
            assert found.text.split() == claimed.text.split() and abs(found.start - claimed.start) <= 30
            if shift == 0:
                assert found.start == begin or found.text != text
    assert kept[0, True] > 500 and kept[1, True] > 800 and min(kept[2, True], kept[6, True], kept[6, False]) > 100


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("tower is", 4, ("tower is", 4)),
        ("tower is", 3, ("tower is", 4)),
        ("tower is", 2, None),  # claims "The tower "
        ("tower is", 7, ("tower is", 4)),
        ("tower  is", 4, ("tower is", 4)),
        ("red", 14, ("red", 13)),
        ("red.", 16, ("red.", 13)),
        ("tower", 14, None),
        ("Tower", 4, None),
        ("red", -1, None),
        ("red", 17, None),
        (" ", 3, None),
        ("", 3, None),
    ],
)
def test_an_answer_is_found_in_the_words_at_its_place(text: str, start: int, expected: tuple[str, int] | None) -> None:
    assert find_answer(TEXT, Answer(text, start)) == expected


def test_of_several_places_the_nearest_is_taken() -> None:
    assert find_answer("a-b-a-b-a", Answer("a", 5)) == ("a", 4)
    assert find_answer("aaaa", Answer("aa", 1)) == ("aa", 1)
    assert find_answer("x aab", Answer("ab", 4)) == ("ab", 3)


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
        ({"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 3.0}]}]}]}, r"qas\[0\]\.id: a fraction"),
        ({"data": [{"paragraphs": [{"context": "x", "qas": [{"id": True}]}]}]}, r"qas\[0\]\.id: true or false"),
        ({"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "y"}]}]}]}, r"qas\[0\]: the key 'id'"),
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
