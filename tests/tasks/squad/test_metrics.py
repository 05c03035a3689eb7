"""SQuAD's scores, against a second implementation that goes character by character and threshold by threshold."""

import itertools
import os
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ds_bert.tasks.squad.metrics import (
    best_threshold_of,
    exact_match,
    f1,
    measure_v1,
    measure_v2,
    normalize_answer,
    score,
)
from ds_bert.tasks.squad.reading import read_squad

PIECES = [
    *(
        "a",
        "an",
        "the",
        "The",
        "A.",
        "AN",
        "thé",
        "a_b",
        "the-",
        "'an'",
        "theatre",
        "x-y",
        "a\u0301",
        "a\u200db",
        "ana",
    ),
    *(
        "—",
        "“quoted”",
        "é",
        "e\u0301",
        "ﬁ",
        "İ",
        "ß",
        "_",
        "$1,000",
        "½",
        "²",
        "10:30",
        "...",
        "!",
        "#@",
        "漢字",
        "«the»",
    ),
    *(" ", "  ", "\t", "\n", "\u00a0", "\u2009", "\u3000", "\u200b", "", "cat", "Cat", "dog", "dogs", "the cat"),
]
PUNCTUATION = [*range(33, 48), *range(58, 65), *range(91, 97), *range(123, 127)]


def words(text: str) -> list[str]:
    """The normalised words: characters kept one by one, articles dropped as runs of letters and digits."""
    kept = [character for character in text.lower() if ord(character) not in PUNCTUATION]
    runs = ["".join(run) for _, run in itertools.groupby(kept, key=str.isalnum)]
    found, word = [], ""
    for character in "".join(" " if run in ("a", "an", "the") else run for run in runs) + " ":
        if character.isspace():
            found += [word] if word else []
            word = ""
        else:
            word += character
    return found


def scores(prediction: str, known: Sequence[str], version_2: bool) -> tuple[Fraction, Fraction]:
    """The best exact match and F1 of a prediction."""
    if version_2:
        known = [text for text in known if words(text)] or [""]
    best_exact = best_f1 = Fraction(0)
    for text in known:
        said, right = words(prediction), words(text)
        best_exact = max(best_exact, Fraction(said == right))
        left, same = list(right), 0
        for word in said:
            if word in left:
                left.remove(word)
                same += 1
        overlap = Fraction(0)
        if same:
            precision, recall = Fraction(same, len(said)), Fraction(same, len(right))
            overlap = 2 * precision * recall / (precision + recall)
        elif version_2 and not said and not right:
            overlap = Fraction(1)
        best_f1 = max(best_f1, overlap)
    return best_exact, best_f1


def awkward(chance: random.Random) -> str:
    return "".join(piece + chance.choice(["", " "]) for piece in chance.choices(PIECES, k=chance.randint(0, 6)))


@pytest.mark.parametrize("version_2", [False, True])
def test_a_thousand_awkward_answers_are_scored_alike(version_2: bool) -> None:
    chance = random.Random(1)
    answers, predictions = {}, {}
    for number in range(1000):
        known = [awkward(chance) for _ in range(chance.randint(0 if version_2 else 1, 3))]
        said = " ".join([*known, awkward(chance)]).split()
        mixed = " ".join(chance.sample(said, chance.randint(0, len(said))))
        answers[str(number)] = known
        predictions[str(number)] = chance.choice([awkward(chance), "", *known, mixed, mixed, mixed.upper() + "."])
    expected = np.array([scores(predictions[key], answers[key], version_2) for key in answers], dtype=np.float64)
    found = np.stack(score(predictions, answers, version_2), axis=1)
    assert 100 < expected[:, 0].sum() < 900 and ((expected[:, 1] > 0) & (expected[:, 1] < 1)).sum() > 50
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat's\tan-imal.", "cats animal"),
        ("a an the", ""),
        ("A_B the_", "ab"),
        ("Theatre of a\u0301", "theatre of \u0301"),
        ("“the” $1,000.50", "“ ” 100050"),
        (" \u00a0!? ", ""),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


def test_scores_worked_out_by_hand() -> None:
    assert exact_match("The Eiffel Tower!", "eiffel tower") == 1.0
    assert f1("red red tower", "the red bridge", False) == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert f1("the", "a", False) == 0.0 and f1("the", "a", True) == 1.0  # v1.1 and v2.0 differ where nothing is left
    assert f1("", "x", True) == 0.0
    measures = measure_v1({"1": "The cat", "2": "dog"}, {"1": ["x", "cat"], "2": ["dog house"]})
    assert measures == {"exact_match": 50.0, "f1": pytest.approx(100 * (1 + 2 / 3) / 2)}


def naive_best(shares: Sequence[float], odds: Sequence[float], known: Sequence[bool], says: Sequence[bool]) -> list:
    """Score every number of answered questions from scratch."""
    order = sorted(range(len(odds)), key=lambda number: odds[number])
    best, threshold = float(sum(not has for has in known)), 0.0
    for count in range(1, len(order) + 1):
        total = 0.0
        for place, number in enumerate(order):
            answered = place < count
            if known[number]:
                total += shares[number] if answered else 0.0
            else:
                total += 0.0 if answered and says[number] else 1.0
        if total > best + 1e-9:
            best, threshold = total, odds[order[count - 1]]
    return [100.0 * best / len(odds), threshold]


def test_the_best_threshold_is_that_of_a_search() -> None:
    chance = random.Random(2)
    thresholds = set()
    for _ in range(200):
        count = chance.randint(1, 12)
        known = [chance.random() < 0.5 for _ in range(count)]
        says = [has or chance.random() < 0.8 for has in known]
        shares = [chance.choice([0.0, 0.25, 0.5, 1.0]) for _ in range(count)]
        odds = [chance.choice([-2.0, -1.0, 0.5, chance.uniform(-3, 3)]) for _ in range(count)]
        found = best_threshold_of(np.array(shares), np.array(odds), np.array(known), np.array(says))
        assert list(found) == pytest.approx(naive_best(shares, odds, known, says))
        thresholds.add(found[1])
    assert len(thresholds) > 20 and 0.0 in thresholds


def test_measures_of_version_2() -> None:
    answers = {"1": ["cat"], "2": [], "3": ["red dog"], "4": []}
    predictions = {"1": "the cat", "2": "bird", "3": "dog", "4": "fish"}
    odds = {"1": -3.0, "2": 5.0, "3": 2.0, "4": 1.0}
    measures = measure_v2(predictions, odds, answers, threshold=1.5)
    dog = 100 * 2 / 3
    assert measures == {
        "exact_match": 50.0,
        "f1": 50.0,
        "HasAns_exact": 50.0,
        "HasAns_f1": 50.0,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "best_exact": 75.0,
        "best_exact_thresh": -3.0,
        "best_f1": 75.0,
        "best_f1_thresh": -3.0,
    }
    higher = measure_v2(predictions, odds, answers, threshold=2.0)  # odds at the threshold are answered
    assert higher["HasAns_f1"] == pytest.approx((100 + dog) / 2) and higher["HasAns_exact"] == 50.0
    assert "NoAns_f1" not in measure_v2(predictions, odds, {"1": ["cat"]}, 0.0)


@pytest.mark.skipif("DS_BERT_DATA" not in os.environ, reason="DS_BERT_DATA names no folder of real data")
@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_perturbed_real_answers_are_scored_alike(version: str) -> None:
    version_2 = version == "2.0"
    file = read_squad(Path(os.environ["DS_BERT_DATA"]) / "squad" / f"dev-v{version}.json", version_2)
    chance = random.Random(3)
    questions = chance.sample(file.questions, 1500)
    answers = {question.id: [answer.text for answer in question.answers] for question in questions}
    predictions = {}
    for question_id, known in answers.items():
        text = chance.choice(known) if known else "the nothing"
        cut = chance.randint(0, len(text))
        predictions[question_id] = chance.choice(
            [text, text[cut:], text[:cut], f"The {text}.", text.title(), "", text[1:-1]]
        )
    expected = np.array([scores(predictions[key], answers[key], version_2) for key in answers], dtype=np.float64)
    found = np.stack(score(predictions, answers, version_2), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=0)
    assert 0.2 < found[:, 0].mean() < found[:, 1].mean() < 0.95
