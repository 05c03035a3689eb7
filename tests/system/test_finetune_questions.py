"""SQuAD and multiple choice as users start them, on tiny files in the official layouts."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import run_job
from tests.support.model_folder import write_bert_folder

COLOURS, THINGS = ["red", "blue", "green"], ["house", "car", "boat", "tree"]
WORDS = [*COLOURS, *THINGS, "the", "is", "what", "colour", "?", "."]


def write_squad(path: Path, count: int, seed: int, version_2: bool) -> list[str]:
    """One article; every fourth question of v2.0 asks for a thing that is not there. Return the questions' ids."""
    chance, paragraphs, ids = random.Random(seed), [], []
    for number in range(count):
        thing, other = chance.sample(THINGS, 2)
        colour = chance.choice(COLOURS)
        context = f"the {thing} is {colour} ."
        impossible = version_2 and number % 4 == 0
        answers = [] if impossible else [{"text": colour, "answer_start": context.index(colour)}]
        question: dict[str, Any] = {
            "id": f"q{number}",
            "question": f"what colour is the {other if impossible else thing} ?",
        }
        question |= {"answers": answers} | ({"is_impossible": impossible} if version_2 else {})
        paragraphs.append({"context": context, "qas": [question]})
        ids.append(question["id"])
    path.write_text(json.dumps({"version": "2", "data": [{"title": "things", "paragraphs": paragraphs}]}))
    return ids


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert_folder(tmp_path_factory.mktemp("model"), WORDS)


def run(job: str, tmp_path: Path, words: list[object], status: int = 0) -> str:
    common = ["--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "out", "--num_stages", 2]
    ended = run_job(job, tmp_path / "printed", [*words, *common, "--do_train", "--do_eval"], world_size=2)
    printed = "".join(path.read_text() for path in sorted((tmp_path / "printed").glob("*.txt")))
    assert [end.status for end in ended] == [status] * 2, printed
    return printed


def results(tmp_path: Path) -> dict[str, float]:
    return json.loads((tmp_path / "out" / "eval_results.json").read_text())


@pytest.mark.parametrize(
    ("head", "version_2"), [pytest.param("span", False, marks=pytest.mark.slow), ("span", True), ("beam", True)]
)
def test_squad(model: Path, tmp_path: Path, head: str, version_2: bool) -> None:
    write_squad(tmp_path / "train.json", 64, 1, version_2)
    ids = write_squad(tmp_path / "dev.json", 15, 2, version_2)
    test_ids = write_squad(tmp_path / "test.json", 7, 3, version_2)
    words = ["--model_name_or_path", model, "--train_file", tmp_path / "train.json", "--head", head]
    words += [
        "--predict_file",
        tmp_path / "dev.json",
        "--max_seq_length",
        32,
        "--max_query_length",
        8,
        "--doc_stride",
        8,
    ]
    words += ["--max_steps", 80, "--learning_rate", 5e-3, "--gradient_accumulation_steps", 2]
    words += ["--do_predict", "--test_file", tmp_path / "test.json"]
    run("pipelines/finetune_squad.py", tmp_path, [*words, *(["--version_2"] if version_2 else [])])
    kinds = {"predictions.json", "nbest_predictions.json"} | ({"null_odds.json"} if version_2 else set())
    for folder, prefix, asked in (("evaluation", "", ids), ("predictions", "test_", test_ids)):
        files = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out" / folder).iterdir()}
        assert files.keys() == {f"{prefix}{kind}" for kind in kinds}
        assert all(list(content) == asked for content in files.values())
    assert results(tmp_path)["f1"] > 60 and 0 < results(tmp_path)["loss"] < 4
    assert not (tmp_path / "out" / "test_results.json").exists()  # answers of test questions are not looked at


def test_squad_refuses_v2_without_its_flag(model: Path, tmp_path: Path) -> None:
    write_squad(tmp_path / "train.json", 8, 1, version_2=True)
    write_squad(tmp_path / "dev.json", 4, 2, version_2=False)
    words = ["--model_name_or_path", model, "--train_file", tmp_path / "train.json", "--max_seq_length", 32]
    words += ["--predict_file", tmp_path / "dev.json", "--max_query_length", 8, "--doc_stride", 8]
    printed = run("pipelines/finetune_squad.py", tmp_path, words, status=2)
    (error,) = {line for line in printed.splitlines() if line.startswith("error: ")}
    assert "--version_2" in error and "train.json" in error


def write_choices(path: Path, count: int, seed: int) -> list[int]:
    """Return the right options."""
    chance, rows = random.Random(seed), []
    for _ in range(count):
        thing, colour = chance.choice(THINGS), COLOURS[0]  # one colour is always right: to be learned in a few steps
        options = chance.sample(COLOURS, len(COLOURS))
        row = {"context": f"the {thing} is {colour} .", "question": f"the {thing} is _", "options": options}
        rows.append(row | {"label": options.index(colour)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row["label"] for row in rows]


def test_multiple_choice(model: Path, tmp_path: Path) -> None:
    write_choices(tmp_path / "train.jsonl", 64, 1)
    write_choices(tmp_path / "validation.jsonl", 12, 2)
    right = write_choices(tmp_path / "test.jsonl", 9, 3)
    words = ["--model_name_or_path", model, "--train_file", tmp_path / "train.jsonl", "--max_seq_length", 32]
    words += ["--validation_file", tmp_path / "validation.jsonl", "--max_qa_length", 10, "--max_steps", 60]
    words += ["--do_predict", "--test_file", tmp_path / "test.jsonl"]
    run("pipelines/finetune_multiple_choice.py", tmp_path, [*words, "--learning_rate", 3e-3])
    assert results(tmp_path)["accuracy"] == 1.0
    predictions = json.loads((tmp_path / "out" / "predictions" / "predictions.json").read_text())
    assert predictions == {str(line): option for line, option in enumerate(right, 1)}
    measured = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert measured.keys() == {"accuracy", "loss"} and measured["accuracy"] == 1.0 and 0 < measured["loss"] < 0.5
