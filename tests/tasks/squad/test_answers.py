"""Answers found among all spans of all windows, against a search one span at a time."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ds_bert.data.features import Features
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.tasks.squad.answers import AnswerSettings, decided, find_answers, write_answers
from ds_bert.tasks.squad.features import WindowSizes, encode_squad
from ds_bert.tasks.squad.reading import SquadFile, read_squad
from tests.support.squad import TOKENIZERS, qa, random_squad, word_piece, write_squad

SIZES = WindowSizes(max_seq_length=24, doc_stride=5, max_query_length=6)
Outputs = list[dict[str, np.ndarray]]


def span_outputs(features: Features, seed: int = 0) -> Outputs:
    """Random logits, padded to uneven lengths with ones that would win."""
    rng = np.random.default_rng(seed)
    outputs = []
    for length in features.lengths:
        both = rng.normal(size=(2, length + rng.integers(0, 9))).astype(np.float32)
        both[:, length:] = 99
        outputs.append({"start_logits": both[0], "end_logits": both[1]})
    return outputs


def beam_outputs(features: Features, seed: int = 0, starts: int = 8, ends: int = 6) -> Outputs:
    """Random beams over all places, [CLS] and the question among them."""
    rng = np.random.default_rng(seed)
    return [
        {
            "start_top_log_probs": -rng.exponential(size=starts).astype(np.float32),
            "start_top_index": rng.integers(0, length, starts),
            "end_top_log_probs": -rng.exponential(size=(starts, ends)).astype(np.float32),
            "end_top_index": rng.integers(0, length, (starts, ends)),
            "answer_logits": np.float32(rng.normal()),
        }
        for length in features.lengths
    ]


def spans_of(output: dict[str, np.ndarray], beam: bool, length: int) -> list[tuple[int, int, float, float]]:
    """All (first, last, start score, end score) that a window's output speaks of."""
    if not beam:
        start, end = output["start_logits"].tolist(), output["end_logits"].tolist()
        return [(i, j, start[i], end[j]) for i in range(length) for j in range(length)]
    found = []
    for i, first in enumerate(output["start_top_index"].tolist()):
        for j, last in enumerate(output["end_top_index"][i].tolist()):
            scores = float(output["start_top_log_probs"][i]), float(output["end_top_log_probs"][i, j])
            found.append((first, last, *scores))
    return found


def has_most_context(token: int, window: tuple[int, int], windows: list[tuple[int, int]]) -> bool:
    """Say whether a token has at least as much context there as in any window, and more than in earlier."""

    def context(first: int, length: int) -> float:
        inside = first <= token < first + length
        return min(token - first, first + length - 1 - token) + 0.01 * length if inside else -1.0

    return windows[int(np.argmax([context(*each) for each in windows]))] == window


def naive_best(
    number: int, file: SquadFile, features: Features, outputs: Outputs, tokenizer: Tokenizer, settings: AnswerSettings
) -> list[tuple[float, str]]:
    """All (score, text) of a question, best first, each text once."""
    columns = {name: column.tolist() for name, column in features.columns.items()}
    mine = [window for window, question in enumerate(columns["question"]) if question == number]
    context = file.contexts[file.questions[number].context]
    encoding = tokenizer.backend.encode(context, add_special_tokens=False)
    pairs = zip(encoding.tokens, encoding.offsets, strict=True)
    offsets = [(begin, begin if token == "▁" else end) for token, (begin, end) in pairs]
    extents = {w: (columns["first_token"][w], columns["context_end"][w] - columns["context_begin"][w]) for w in mine}
    found: dict[str, float] = {}
    for window in mine:
        begin, end = columns["context_begin"][window], columns["context_end"][window]
        for i, j, start, last in spans_of(outputs[window], settings.beam, int(features.lengths[window])):
            if not (begin <= i <= j < end and j - i + 1 <= settings.max_answer_length):
                continue
            shift = extents[window][0] - begin
            if has_most_context(i + shift, extents[window], list(extents.values())):
                text = context[offsets[i + shift][0] : offsets[j + shift][1]].strip()
                if text:
                    found[text] = max(found.get(text, -np.inf), start + last)
    return sorted(((score, text) for text, score in found.items()), reverse=True)


@pytest.mark.parametrize("beam", [False, True], ids=["span", "beam"])
@pytest.mark.parametrize("make_tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("longest", [1, 4, 1000])
def test_the_best_answers_are_those_of_a_search(
    tmp_path: Path, make_tokenizer: Callable[[], Tokenizer], beam: bool, longest: int
) -> None:
    file, tokenizer = read_squad(random_squad(tmp_path / "a.json"), version_2=False), make_tokenizer()
    features = encode_squad(file, tokenizer, SIZES, training=False)
    assert len(features) > 1.5 * len(file.questions)
    outputs = beam_outputs(features) if beam else span_outputs(features)
    # As many as there are spans: texts that occur twice cannot push others out.
    settings = AnswerSettings(beam, n_best_size=10_000, max_answer_length=longest)
    answers = find_answers(outputs, features, file, tokenizer, settings)
    few = find_answers(outputs, features, file, tokenizer, AnswerSettings(beam, False, 3, longest))
    several = 0
    for number, (answer, short) in enumerate(zip(answers, few, strict=True)):
        expected = naive_best(number, file, features, outputs, tokenizer, settings) or [(0.0, "")]
        assert [each.start + each.end for each in answer.n_best] == pytest.approx([score for score, _ in expected])
        assert [each.text for each in answer.n_best] == [text for _, text in expected]
        assert answer.best == short.best == expected[0][1]
        assert answer.best in file.contexts[file.questions[number].context]
        assert len(short.n_best) <= 3
        several += len(expected) > 1
    assert several > len(file.questions) / 3


@pytest.mark.parametrize("beam", [False, True], ids=["span", "beam"])
def test_the_odds_of_no_answer_are_the_smallest_of_all_windows(tmp_path: Path, beam: bool) -> None:
    file, tokenizer = read_squad(random_squad(tmp_path / "a.json"), version_2=False), word_piece()
    features = encode_squad(file, tokenizer, SIZES, training=False)
    outputs = beam_outputs(features) if beam else span_outputs(features)
    settings = AnswerSettings(beam, version_2=True, null_score_threshold=-0.5 if beam else -4.0)
    decisions = set()
    for number, answer in enumerate(find_answers(outputs, features, file, tokenizer, settings)):
        mine = [outputs[window] for window in np.flatnonzero(features.columns["question"] == number)]
        if beam:
            assert answer.null_odds == min(float(output["answer_logits"]) for output in mine)
            assert bool(answer.best) == bool(naive_best(number, file, features, outputs, tokenizer, settings))
        else:
            null = min(float(output["start_logits"][0]) + float(output["end_logits"][0]) for output in mine)
            best = naive_best(number, file, features, outputs, tokenizer, settings)[0]
            assert answer.null_odds == pytest.approx(null - best[0])
            assert [each.start + each.end for each in answer.n_best if not each.text] == pytest.approx([null])
            totals = [each.start + each.end for each in answer.n_best]
            assert totals == sorted(totals, reverse=True)
        assert decided(answer, settings) == ("" if answer.null_odds > settings.null_score_threshold else answer.best)
        decisions.add(bool(decided(answer, settings)))
    assert decisions == {True, False}


def small_task(tmp_path: Path) -> tuple[SquadFile, Features, Outputs]:
    path = write_squad(tmp_path / "a.json", [("red river", [qa("x", "who")]), (" ", [qa("y", "when")])])
    file = read_squad(path, version_2=True)
    logits = np.array([0, 0, 0, 3, 1, 0], dtype=np.float32)  # [CLS] who [SEP] red river [SEP]
    outputs = [{"start_logits": logits, "end_logits": logits}]
    return file, encode_squad(file, word_piece(), SIZES, training=False), outputs


def test_files_have_the_official_layout(tmp_path: Path) -> None:
    file, features, outputs = small_task(tmp_path)
    settings = AnswerSettings(version_2=True, n_best_size=2)
    answers = find_answers(outputs, features, file, word_piece(), settings)
    paths = write_answers(answers, file, settings, tmp_path, prefix="test_")
    assert [path.name for path in paths] == [
        f"test_{n}.json" for n in ("predictions", "nbest_predictions", "null_odds")
    ]
    predictions, n_best, odds = (json.loads(path.read_text()) for path in paths)
    assert predictions == {"x": "red", "y": ""}
    assert odds == {"x": -6.0, "y": 1e6}
    weights = np.exp([6.0, 4.0, 0.0])
    assert [entry.pop("probability") for entry in n_best["x"]] == pytest.approx((weights / weights.sum()).tolist())
    assert n_best["x"] == [
        {"text": "red", "start_logit": 3.0, "end_logit": 3.0},
        {"text": "red river", "start_logit": 3.0, "end_logit": 1.0},
        {"text": "", "start_logit": 0.0, "end_logit": 0.0},
    ]
    assert n_best["y"] == [{"text": "", "probability": 1.0, "start_logit": 0.0, "end_logit": 0.0}]


def test_version_1_has_no_odds_and_always_an_answer(tmp_path: Path) -> None:
    file, features, outputs = small_task(tmp_path)
    outputs[0]["start_logits"][0] = outputs[0]["end_logits"][0] = 50
    settings = AnswerSettings()
    paths = write_answers(find_answers(outputs, features, file, word_piece(), settings), file, settings, tmp_path)
    assert [path.name for path in paths] == ["predictions.json", "nbest_predictions.json"]
    assert json.loads(paths[0].read_text())["x"] == "red"
    assert all(entry["text"] for entry in json.loads(paths[1].read_text())["x"])


def test_the_beam_head_writes_log_probabilities(tmp_path: Path) -> None:
    file, features, _ = small_task(tmp_path)
    beam: dict[str, Any] = {
        "start_top_log_probs": np.array([-0.1, -2.0], dtype=np.float32),
        "start_top_index": np.array([3.0, 0.0], dtype=np.float32),  # an index may come as a float
        "end_top_log_probs": np.array([[-0.5, -np.inf], [-0.1, -0.2]], dtype=np.float32),
        "end_top_index": np.array([[4.0, 3.0], [0.0, 3.0]], dtype=np.float32),
        "answer_logits": np.float32(-1.5),
    }
    settings = AnswerSettings(beam=True, version_2=True)
    answers = find_answers([beam], features, file, word_piece(), settings)
    n_best = json.loads(write_answers(answers, file, settings, tmp_path)[1].read_text())
    assert answers[0].null_odds == -1.5
    assert [entry["text"] for entry in n_best["x"]] == ["red river"]
    assert n_best["x"][0]["start_log_prob"] == pytest.approx(-0.1)
    assert n_best["x"][0]["end_log_prob"] == -0.5


def test_a_text_that_occurs_twice_counts_once(tmp_path: Path) -> None:
    chance = random.Random(0)
    path = write_squad(tmp_path / "a.json", [("red river red river", [qa("x", "who")])])
    file = read_squad(path, version_2=True)
    features = encode_squad(file, word_piece(), SIZES, training=False)
    logits = np.array([chance.random() for _ in range(8)], dtype=np.float32)
    answer = find_answers(
        [{"start_logits": logits, "end_logits": logits}], features, file, word_piece(), AnswerSettings()
    )
    texts = [each.text for each in answer[0].n_best]
    assert len(texts) == len(set(texts)) == 7  # of ten spans


@pytest.mark.parametrize("name", ["n_best_size", "max_answer_length"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--{name} 0"):
        AnswerSettings(**{name: 0})
