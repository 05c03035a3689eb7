"""Labels keep the rows that a trained head has for them: matched by name, refused where the names do not agree."""

from itertools import permutations
from typing import Any

import pytest

from ds_bert.data.labels import head_names, in_order_of_head, numbered
from ds_bert.errors import UserError
from ds_bert.tasks.glue.benchmark import OTHER_TASKS, TASKS

STYLES = {
    "as they are": str,
    "upper": str.upper,
    "title": str.title,
    "joined otherwise": lambda name: name.replace("_", "-"),
    "in words": lambda name: name.replace("_", " ").capitalize(),
}
SETS = [("entailment", "neutral", "contradiction"), ("ham", "spam"), ("not_entailment", "entailment"),
        ("O", "B-PER", "I-PER", "B-LOC"), ("0", "1", "2"), ("-1", "+1"), ("neg", "pos")]  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("names", SETS, ids=str)
def test_every_permutation_is_undone_by_name(names: tuple[str, ...], style: str) -> None:
    for order in permutations(names):
        head = [STYLES[style](name) for name in order]
        assert in_order_of_head(names, head, "it needs") == order
        assert in_order_of_head(names[:-1], head, "it has", may_lack=True) == tuple(
            name if name in names[:-1] else STYLES[style](name) for name in order
        )
        if len(names) > 2:
            with pytest.raises(UserError, match=r"the model's labels are .*, but it needs .*--drop_classifier"):
                in_order_of_head(names[:-1], head, "it needs")


@pytest.mark.parametrize("name", [name for name, task in {**TASKS, **OTHER_TASKS}.items() if task.labels])
def test_official_labels_are_known_by_every_name_that_is_certain(name: str) -> None:
    task = {**TASKS, **OTHER_TASKS}[name]
    for spelled in (task.labels, *task.also):
        for order in permutations(range(len(spelled))):
            for style in STYLES.values():
                head = [style(spelled[place]) for place in order]
                wanted = tuple(task.labels[place] for place in order)
                assert in_order_of_head(task.labels, head, "it needs", task.also) == wanted


def test_abbreviations_that_are_certain() -> None:
    assert in_order_of_head(["neg", "pos"], ["POSITIVE", "NEGATIVE"], "it has") == ("pos", "neg")
    assert in_order_of_head(["negative", "positive"], ["Pos", "Neg"], "it has") == ("positive", "negative")
    assert in_order_of_head(["neutral", "entails"], ["Entailment", "Neutral"], "it has") == ("entails", "neutral")


def test_labels_that_differ_by_capitals_alone_are_told_apart() -> None:
    assert in_order_of_head(["a", "A"], ["A", "a"], "it has") == ("A", "a")
    with pytest.raises(UserError, match="the model's labels are A, b, but it has a, A;"):
        in_order_of_head(["a", "A"], ["A", "b"], "it has")


def test_names_that_say_nothing_leave_the_order() -> None:
    for names in SETS:
        assert in_order_of_head(names, numbered(len(names)), "it needs") == names
        with pytest.raises(UserError, match="the model's labels are LABEL_0, "):
            in_order_of_head(names, numbered(len(names) + 1), "it needs")
    assert in_order_of_head(["LABEL_0", "LABEL_1"], ["LABEL_1", "LABEL_0"], "it has") == ("LABEL_1", "LABEL_0")
    with pytest.raises(UserError, match="LABEL_1, LABEL_0, but it has a, b"):
        in_order_of_head(["a", "b"], ["LABEL_1", "LABEL_0"], "it has")


@pytest.mark.parametrize(
    ("names", "head"),
    [
        (["0", "1"], ["NEGATIVE", "POSITIVE"]),  # ids of the rows, or truth values? Not certain in one's own files
        (["a", "b"], ["0", "1"]),
        (["a", "b", "c"], ["a", "b"]),
        (["a", "c"], ["a", "b"]),
        (["a", "b"], ["a", "a"]),
        (["entailment", "neutral", "contradiction"], ["entailment", "not_entailment"]),
    ],
)
def test_names_that_do_not_agree_are_refused_with_both_lists(names: list[str], head: list[str]) -> None:
    for may_lack in (False, True):
        with pytest.raises(UserError) as caught:
            in_order_of_head(names, head, "own.csv has", may_lack=may_lack)
        assert f"are {', '.join(head)}, but own.csv has {', '.join(names)}; " in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, ["a", "b", "c"]),
        ({"id2label": {"2": "c", "0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1, "c": 2}}, ["a", "b", "c"]),
        ({"id2label": {0: "a", 1: "b", 2: "c"}}, ["a", "b", "c"]),
        ({"id2label": {"0": 5, "1": 6, "2": 7}}, ["5", "6", "7"]),
        ({"label2id": {"b": 0, "a": 1, "c": 2}}, ["b", "a", "c"]),
        (
            {"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "label2id": {"c": 0, "b": 1, "a": 2}},
            [*"cba"],
        ),
        (
            {"id2label": {"0": "x", "1": "y", "2": "z"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}},
            [*"xyz"],
        ),
        ({}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": None}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
    ],
)
def test_names_of_a_heads_rows(fields: dict[str, Any], expected: list[str]) -> None:
    assert head_names(fields, 3, "config.json") == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, '"id2label" names the labels 0, 1, but the head has 3, from 0 to 2'),
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, '"id2label" names the labels 1, 2, 3'),
        ({"label2id": {"a": 0, "b": 0, "c": 1}}, '"label2id" names the labels 0, 1'),
        ({"id2label": dict(enumerate("abc")), "label2id": {"c": 0, "b": 1, "a": 2}}, "needed is the same order"),
    ],
)  # fmt: skip
def test_names_that_are_not_a_heads_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"config.json: .*{message}"):
        head_names(fields, 3, "config.json")
