"""The worked example of a task of one's own: it runs on two stages and learns."""

import json
import random
from pathlib import Path

from tests.support.jobs import run_job
from tests.support.model_folder import write_bert_folder

WORDS = {"DET": ["the", "a"], "NOUN": ["dog", "cat", "tree"], "VERB": ["sees", "eats"]}
SENTENCE = ["DET", "NOUN", "VERB", "DET", "NOUN"]


def write_sentences(path: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    rows = [{"words": [chance.choice(WORDS[tag]) for tag in SENTENCE], "tags": SENTENCE} for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_token_classification_learns_on_two_stages(tmp_path: Path) -> None:
    lines = (Path(__file__).parents[2] / "docs/examples/token_classification.py").read_text().splitlines()
    assert len(lines) <= 60
    write_sentences(tmp_path / "train.jsonl", 64, 1)
    write_sentences(tmp_path / "validation.jsonl", 10, 2)
    model = write_bert_folder(tmp_path / "model", [word for words in WORDS.values() for word in words])
    words = ["--model_name_or_path", model, "--data_dir", tmp_path, "--num_stages", 2, "--do_train", "--do_eval"]
    words += ["--output_dir", tmp_path / "run", "--max_steps", 30, "--learning_rate", 5e-3, "--max_seq_length", 16]
    ended = run_job("docs/examples/token_classification.py", tmp_path / "printed", words, world_size=2)
    assert [end.status for end in ended] == [0, 0]
    results = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert results["accuracy"] == 1.0
