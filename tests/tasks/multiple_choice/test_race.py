import json
from pathlib import Path
from typing import Any

import pytest

from ds_bert.errors import UserError
from ds_bert.tasks.multiple_choice.reading import read_race

ARTICLE = {
    "article": "Tom went home.",
    "id": "high2.txt",
    "questions": ["Who went?", "He went _ ."],
    "options": [["Tom", "Ann", "Bob", "Eve"], ["out", "up", "home", "in"]],
    "answers": ["A", "C"],
}


def write_article(root: Path, place: str, **changes: Any) -> None:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    content = ARTICLE | {"id": f"{path.parent.name}{path.name}"} | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.fixture
def race(tmp_path: Path) -> Path:
    root = tmp_path / "RACE"
    for place in ("train/high/10.txt", "train/high/2.txt", "train/middle/1.txt"):
        write_article(root, place)
    return root


def test_articles_come_in_the_order_of_their_numbers(race: Path) -> None:
    questions = read_race(race, "train")
    ids = ["high2.txt-0", "high2.txt-1", "high10.txt-0", "high10.txt-1", "middle1.txt-0", "middle1.txt-1"]
    assert [question.id for question in questions] == ids
    second = questions[1]
    assert (second.context, second.text, second.options, second.answer, second.group) == (
        "Tom went home.",
        "He went _ .",
        ("out", "up", "home", "in"),
        2,
        "high",
    )


def test_the_folder_may_be_the_one_that_race_lies_in(race: Path) -> None:
    assert read_race(race.parent, "train") == read_race(race, "train")


@pytest.mark.parametrize(("level", "count"), [("high", 4), ("middle", 2)])
def test_one_level_only(race: Path, level: str, count: int) -> None:
    questions = read_race(race, "train", (level,))
    assert [question.group for question in questions] == [level] * count


def test_answers_may_be_unknown_where_they_are_not_needed(race: Path) -> None:
    write_article(race, "test/high/1.txt", answers=None)
    questions = read_race(race, "test", ("high",), with_answers=False)
    assert [question.answer for question in questions] == [None, None]
    with pytest.raises(UserError, match=r"1.txt: no key 'answers'"):
        read_race(race, "test", ("high",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": ["A", "E"]}, r"3.txt: answers\[1\] is 'E', needed is a letter from A to D"),
        ({"answers": ["A", "c"]}, r"3.txt: answers\[1\] is 'c'"),
        ({"answers": ["A", ""]}, r"3.txt: answers\[1\] is ''"),
        ({"answers": ["A"]}, "3.txt: answers has 1 entries, but there are 2 questions"),
        ({"options": [["Tom", "Ann", "Bob", "Eve"]]}, "3.txt: options has 1 entries"),
        ({"options": [["a", "b", "c", "d"], ["a", "b", "c"]]}, "3.txt: question 1: 3 options, but the questions .* 4"),
        ({"options": [["a", "b", "c", "d"], "abcd"]}, r"3.txt: options\[1\]: a string, needed is a list"),
        ({"questions": "Who?"}, "3.txt: questions is a string, needed is a list"),
        ({"article": None}, "3.txt: no key 'article'"),
        ({"id": "high2.txt"}, "3.txt: question 0: the id 'high2.txt-0' stands there twice"),
    ],
)
def test_wrong_articles_are_refused(race: Path, changes: dict, message: str) -> None:
    write_article(race, "train/high/3.txt", **changes)
    with pytest.raises(UserError, match=message):
        read_race(race, "train")


def test_missing_parts_are_refused(race: Path) -> None:
    with pytest.raises(UserError, match=r"dev/high: no such folder; RACE needs dev/high"):
        read_race(race, "dev")
    (race / "dev" / "high").mkdir(parents=True)
    with pytest.raises(UserError, match=r"dev/high: no \*.txt"):
        read_race(race, "dev")
    write_article(race, "dev/high/1.txt", questions=[], options=[], answers=[])
    with pytest.raises(UserError, match=r"dev: no question"):
        read_race(race, "dev", ("high",))
