"""The worked example of a task of one's own: it runs on two stages and learns."""

import json
import random
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertForTokenClassification

from tests.support.jobs import run_job
from tests.support.model_folder import write_bert_folder

WORDS = {"DET": ["the", "a"], "NOUN": ["dog", "cat", "tree"], "VERB": ["sees", "eats"]}
SENTENCE = ["DET", "NOUN", "VERB", "DET", "NOUN"]


def write_sentences(path: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    rows = [{"words": [chance.choice(WORDS[tag]) for tag in SENTENCE], "tags": SENTENCE} for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


EXAMPLE = Path(__file__).parents[2] / "docs/examples/token_classification.py"


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    """The command line of the example on two small files."""
    write_sentences(tmp_path / "train.jsonl", 64, 1)
    write_sentences(tmp_path / "validation.jsonl", 10, 2)
    model = write_bert_folder(tmp_path / "model", [word for words in WORDS.values() for word in words])
    given = ["--model_name_or_path", model, "--data_dir", tmp_path, "--do_train", "--do_eval"]
    return [*given, "--output_dir", tmp_path / "run", "--learning_rate", 5e-3, "--max_seq_length", 16]


def run(tmp_path: Path, job: Path, words: list[object], ranks: int = 1, status: int = 0) -> str:
    ended = run_job(str(job), tmp_path / "printed", words, ranks)
    printed = "".join(path.read_text() for path in sorted((tmp_path / "printed").glob("*.txt")))
    assert [end.status for end in ended] == [status] * ranks, printed
    return printed


def test_token_classification_learns_on_two_stages(tmp_path: Path, words: list[object]) -> None:
    run(tmp_path, EXAMPLE, [*words, "--num_stages", 2, "--max_steps", 30], ranks=2)
    results = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert results["accuracy"] == 1.0


def test_a_metric_may_have_any_name(tmp_path: Path, words: list[object]) -> None:
    job = tmp_path / "tagging.py"
    job.write_text(EXAMPLE.read_text().replace('{"accuracy":', '{"f1":'))
    run(tmp_path, job, [*words, "--max_steps", 4, "--eval_steps", 2])
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    assert best["metric"] == "f1" and list(json.loads((tmp_path / "run" / "eval_results.json").read_text())) == [
        "f1",
        "loss",
    ]


@pytest.mark.slow
def test_a_metric_that_is_not_there_costs_no_training(tmp_path: Path, words: list[object]) -> None:
    more = ["--num_stages", 2, "--max_steps", 2, "--metric_for_best_model", "f1"]
    printed = run(tmp_path, EXAMPLE, [*words, *more], ranks=2, status=2)
    assert "error: the best checkpoint is to be chosen by 'f1', but the evaluation gave accuracy" in printed
    assert "Traceback" not in printed and (tmp_path / "run" / "checkpoint-2").is_dir()


@pytest.mark.slow
def test_a_metric_that_refuses_ends_all_ranks_and_costs_no_training(tmp_path: Path, words: list[object]) -> None:
    job = tmp_path / "tagging.py"
    text = EXAMPLE.read_text().replace("import exit_on_user_error", "import UserError, exit_on_user_error")
    job.write_text(text.replace('return {"accuracy":', 'raise UserError("nothing to measure")  #'))
    printed = run(tmp_path, job, [*words, "--num_stages", 2, "--max_steps", 2], ranks=2, status=2)
    assert "error: nothing to measure" in printed and (tmp_path / "run" / "checkpoint-2").is_dir()


MISTAKES = {
    "two tags for three words": (
        {"words": ["the", "dog", "sees"], "tags": ["DET", "NOUN"]},
        "line 11: 2 tags for 3 words",
    ),
    "one tag for two words": ({"words": ["the", "dog"], "tags": ["DET"]}, "line 11: 1 tags"),
    "no words": ({"tags": ["DET"]}, "line 11: 1 tags"),
    "nothing": ({"words": [], "tags": []}, "line 11: 0 tags"),
}


@pytest.mark.parametrize("mistake", [*MISTAKES, "no such folder"])
def test_token_classification_refuses_what_it_cannot_tag(tmp_path: Path, words: list[object], mistake: str) -> None:
    row, expected = MISTAKES.get(mistake, (None, "nowhere/train.jsonl: no such file"))
    if row:
        with open(tmp_path / "validation.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    else:
        words = [*words, "--data_dir", "nowhere"]
    printed = run(tmp_path, EXAMPLE, [*words, "--max_steps", 2], status=2)
    assert expected in printed and "Traceback" not in printed


def test_a_kept_head_keeps_its_tags_and_words_without_tokens_their_lines(tmp_path: Path, words: list[object]) -> None:
    """Trained on from a head with the tags in another order, on CoNLL's columns; what is predicted keeps every word."""
    names = ["VERB", "O", "NOUN", "DET"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: row for row, name in enumerate(names)}}
    given = [word for some in WORDS.values() for word in some]
    model = write_bert_folder(tmp_path / "named", given, BertForTokenClassification, num_labels=4, **labels)
    weights = load_file(model / "model.safetensors")
    weights["classifier.bias"][2] = 50.0  # all words are nouns
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").unlink()
        lines = ["\ufeff-DOCSTART- O", "", "the\tDET", "dog\tNOUN", "\ufe0f\tO", "sees\tVERB", "", "", "a\tDET", ""]
        (tmp_path / f"{split}.conll").write_text("\r\n".join(lines))
    more = ["--model_name_or_path", model, "--max_steps", 1, "--learning_rate", 1e-12]
    printed = run(tmp_path, EXAMPLE, [*words, *more])
    assert "validation.conll: 1 words give no tokens; they are not trained on" in printed
    assert json.loads((tmp_path / "run" / "eval_results.json").read_text())["accuracy"] == 1 / 4
    found = (tmp_path / "run" / "evaluation" / "tags.conll").read_text()
    assert found == "the\tDET\tNOUN\ndog\tNOUN\tNOUN\n\ufe0f\tO\tO\nsees\tVERB\tNOUN\n\na\tDET\tNOUN\n\n"
    config = json.loads((tmp_path / "run" / "checkpoint-1" / "config.json").read_text())
    assert list(config["id2label"].values()) == names
