"""SQuAD as a task: what is read, cached, measured and written."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.errors import UserError
from ds_bert.tasks.squad.features import WindowSizes, encode_squad, tokenise_contexts
from ds_bert.tasks.squad.metrics import normalize_answer
from ds_bert.tasks.squad.objective import BeamSpanObjective, SpanObjective
from ds_bert.tasks.squad.reading import read_squad
from ds_bert.tasks.task import Task
from tests.support.benchmarks import squad
from tests.support.squad import qa, random_squad, word_piece, write_squad

SIZES = {"max_seq_length": 24, "doc_stride": 5, "max_query_length": 6}
FILES = ("train_file", "predict_file", "test_file")
CONTEXT = "red river north"


def task_of(path: Path, **options: Any) -> Task:
    return squad(word_piece(), **{name: path for name in FILES}, **(SIZES | {"splits": ["train", "eval"]} | options))


def certain(lengths: np.ndarray, starts: Sequence[int], ends: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Logits that leave no doubt of these positions."""
    outputs = []
    for length, start, end in zip(lengths.tolist(), starts, ends, strict=True):
        logits = np.zeros((2, length), dtype=np.float32)
        logits[0, start] = logits[1, end] = 20
        outputs.append({"start_logits": logits[0], "end_logits": logits[1]})
    return outputs


def test_a_span_task_has_its_parts(tmp_path: Path) -> None:
    task = task_of(random_squad(tmp_path / "a.json"), splits=["train", "eval", "predict"])
    assert (task.name, task.head, task.config) == ("squad", "question-answering", {"num_labels": 2})
    assert type(task.objective) is SpanObjective and task.best_metric == "f1"
    assert task.train is not None and len(task.train) == len(task.evaluation["validation"].examples)
    assert set(task.train.batch(0, np.array([0]))) >= {
        "start_positions",
        "end_positions",
        "is_impossible",
        "context_end",
    }
    for split, has_targets in ((task.evaluation["validation"], True), (task.prediction["test"], False)):
        batch = split.examples.batch(0, np.array([0, 1]))
        assert ("start_positions" in batch) == has_targets and {"context_begin", "context_end"} <= set(batch)
    assert task.prediction["test"].measure is None


def test_a_beam_task_has_its_parts(tmp_path: Path) -> None:
    task = task_of(random_squad(tmp_path / "a.json"), head="beam", version_2=True, start_n_top=4, end_n_top=3)
    assert (task.name, task.head, task.config) == (
        "squad_v2",
        "beam-question-answering",
        {"start_n_top": 4, "end_n_top": 3},
    )
    assert type(task.objective) is BeamSpanObjective


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    task = squad(word_piece(), test_file=random_squad(tmp_path / "a.json"), splits=["predict"], **SIZES)
    assert task.train is None and not task.evaluation and set(task.prediction) == {"test"}


@pytest.mark.parametrize(
    ("split", "flag"), [("train", "train_file"), ("eval", "predict_file"), ("predict", "test_file")]
)
def test_a_file_that_is_needed_is_asked_for(split: str, flag: str) -> None:
    with pytest.raises(UserError, match=f"--{flag} is missing"):
        squad(word_piece(), splits=[split])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "best"}, "--head best: there are span, beam"),
        ({"head": "beam", "end_n_top": 0}, "--end_n_top 0"),
        ({"max_seq_length": 9}, "--max_seq_length 9"),
        ({"n_best_size": 0}, "--n_best_size 0"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task_of(tmp_path / "a.json", **options)


def test_samples_are_questions(tmp_path: Path) -> None:
    path = random_squad(tmp_path / "a.json")
    task = task_of(
        path, max_train_samples=2, max_eval_samples=4, max_predict_samples=1, splits=["train", "eval", "predict"]
    )
    whole = task_of(path)
    assert task.train is not None and whole.train is not None
    first_four = whole.evaluation["validation"].examples.columns["question"] < 4  # type: ignore[attr-defined]
    assert len(task.evaluation["validation"].examples) == first_four.sum() > 4
    assert len(task.prediction["test"].examples) < len(task.train) < len(whole.train)
    assert task.fingerprint != whole.fingerprint != ""
    split = task.evaluation["validation"]
    assert split.write is not None and split.decode is not None
    outputs = certain(split.examples.lengths, [0] * first_four.sum(), [0] * first_four.sum())
    assert len(json.loads(split.write(split.decode(outputs), tmp_path)[0].read_text())) == 4


def test_the_cache_gives_the_same_and_knows_every_option(tmp_path: Path) -> None:
    path, cache = random_squad(tmp_path / "a.json"), tmp_path / "cache"
    fresh, first, again = task_of(path), task_of(path, cache_dir=cache), task_of(path, cache_dir=cache)
    assert fresh.fingerprint == first.fingerprint
    for one, other in ((first, fresh), (again, fresh)):
        assert one.train is not None and other.train is not None
        for left, right in (
            (one.train, other.train),
            (one.evaluation["validation"].examples, other.evaluation["validation"].examples),
        ):
            numbers = np.arange(len(right))
            expected = right.batch(0, numbers)
            found = left.batch(0, numbers)
            assert set(found) == set(expected)
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert len(list(cache.glob("[0-9a-f]*"))) == 2
    prints = {first.fingerprint}
    for options in ({"max_seq_length": 30}, {"doc_stride": 4}, {"max_query_length": 5}, {"version_2": True}):
        prints.add(task_of(path, cache_dir=cache, **options).fingerprint)
    assert len(prints) == 5 and len(list(cache.glob("[0-9a-f]*"))) == 10


def test_what_is_left_out_is_noted_whether_cached_or_not(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "a.json", [(CONTEXT, [qa(1, "a", [("river", 4)]), qa(2, "b", [("boat", 3)])])])
    options = {"splits": ["train"], "cache_dir": tmp_path / "cache"}
    for _ in ("cold", "warm"):
        (note,) = task_of(path, **options).all_notes
        assert note.startswith(f"{path}: 1 of 2 questions cannot be trained on")


def test_measures_and_files_of_version_2(tmp_path: Path) -> None:
    qas = [qa("x", "who", [("river", 4)]), qa("y", "when"), qa("z", "where", [("red", 0)])]
    task = task_of(write_squad(tmp_path / "a.json", [(CONTEXT, qas)]), version_2=True, null_score_diff_threshold=-10.0)
    split = task.evaluation["validation"]
    # [CLS] who [SEP] red river north [SEP]; the second question is answered by mistake, the third right.
    outputs = certain(split.examples.lengths, [4, 4, 3], [4, 4, 3])
    outputs[1]["start_logits"][0] = 15.0
    assert split.measure is not None and split.write is not None and split.decode is not None
    measures = split.measure(split.decode(outputs))
    assert measures["exact_match"] == measures["f1"] == pytest.approx(200 / 3)
    assert measures["HasAns_f1"] == 100.0 and measures["NoAns_f1"] == 0.0
    assert measures["best_f1"] == measures["best_exact"] == 100.0
    assert measures["best_f1_thresh"] == -40.0
    assert all(isinstance(value, float) for value in measures.values())
    paths = split.write(split.decode(outputs), tmp_path)
    assert [path.name for path in paths] == ["predictions.json", "nbest_predictions.json", "null_odds.json"]
    assert json.loads(paths[0].read_text()) == {"x": "river", "y": "river", "z": "red"}
    assert json.loads(paths[2].read_text()) == {"x": -40.0, "y": -25.0, "z": -40.0}


@pytest.mark.skipif("DS_BERT_DATA" not in os.environ, reason="DS_BERT_DATA names no folder of real data")
@pytest.mark.parametrize("vocabulary", ["bert-base-uncased", "bert-base-cased", "albert/30k-clean.model"])
def test_certain_logits_recover_the_real_answers(vocabulary: str) -> None:
    """All but those that cannot be: an answer that is a part of a token ("8" in "18") or longer than allowed."""
    folder = Path(os.environ["DS_BERT_DATA"])
    path, tokenizer = folder / "squad" / "dev-v1.1.json", load_tokenizer(folder / "vocab" / vocabulary)
    file = read_squad(path, version_2=False).first(500)
    target = encode_squad(file, tokenizer, WindowSizes(), training=True).columns
    task = squad(tokenizer, predict_file=path, splits=["eval"], max_eval_samples=500)
    split = task.evaluation["validation"]
    outputs = certain(split.examples.lengths, target["start_positions"], target["end_positions"])
    contexts, possible = tokenise_contexts(tokenizer, file.contexts), 0
    for question in file.questions:
        span = contexts.tokens_of(question.answers[0], question.context)
        assert span is not None
        begin, end = (contexts.starts[question.context] + place for place in span)
        text = file.contexts[question.context][contexts.begins[begin] : contexts.ends[end]]
        possible += normalize_answer(text) == normalize_answer(question.answers[0].text) and span[1] - span[0] < 30
    assert split.measure is not None and split.decode is not None
    assert possible >= 490  # the file puts "8" at its first place, which is in "18"
    assert split.measure(split.decode(outputs))["exact_match"] == pytest.approx(100 * possible / 500)
