"""What is cut off is counted and said before training; the counts are made here once more from the texts alone."""

import csv
import json
import random
from pathlib import Path

import pytest

from ds_bert.data.encoding import train_vocabulary
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.tasks.multiple_choice.features import fill_in
from tests.support.benchmarks import glue, multiple_choice, squad
from tests.support.squad import qa, write_squad

WORDS = ["ba", "be", "bi", "bo", "bu"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    document = ["The quick brown foxes jumped over lazily sleeping dogs, nobody saw who wrote it.", " ".join(WORDS)]
    return train_vocabulary(lambda: iter([document] * 9), 110)


def text(chance: random.Random, longest: int) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, longest)))


def size(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode([text])[0])


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("longest", [1, 4, 20])
def test_texts(tmp_path: Path, tokenizer: Tokenizer, pairs: bool, longest: int) -> None:
    chance, limit = random.Random(longest), 12
    rows = [(text(chance, longest), text(chance, longest), str(number % 2)) for number in range(40)]
    path = tmp_path / "train.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "other" if pairs else "id", "label"), *rows])
    columns = {"text_column": "text", "text_pair_column": "other" if pairs else None}
    task = glue(None, None, tokenizer, limit, splits=["train"], train_file=path, **columns)
    sizes = [size(tokenizer, a) + (size(tokenizer, b) + 1 if pairs else 0) + 2 for a, b, _ in rows]
    cut = sum(each > limit for each in sizes)
    said = f"{path}: {cut} of 40 examples are longer than --max_seq_length 12: cut"
    assert [note for note in task.all_notes if "cut" in note] == ([said] if cut else [])
    assert bool(cut) == (longest == 20)  # two texts of 4 words, with 3 signs between, have 11 tokens at most


def test_questions_of_squad(tmp_path: Path, tokenizer: Tokenizer) -> None:
    questions = ["ba", "ba be bi bo", "ba be bi bo bu"]
    asked = [qa(number, each, [("ba", 0)]) for number, each in enumerate(questions)]
    path = write_squad(tmp_path / "train.json", [("ba be bi", asked)])
    limit = size(tokenizer, questions[1])
    task = squad(tokenizer, 64, train_file=path, doc_stride=8, max_query_length=limit, splits=["train"])
    said = f"{path}: 1 of 3 questions is longer than --max_query_length {limit}: cut"
    assert task.all_notes == (said,)


@pytest.mark.parametrize("longest", [1, 8, 30])
def test_options(tmp_path: Path, tokenizer: Tokenizer, longest: int) -> None:
    chance, length, of_ending = random.Random(longest), 24, 9
    rows = [
        {"context": text(chance, longest), "question": "ba?", "options": [text(chance, 9), text(chance, 9)], "label": 0}
        for _ in range(20)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = multiple_choice(
        None, None, tokenizer, max_seq_length=length, max_qa_length=of_ending, splits=("train",), train_file=path
    )
    cut = 0
    for row in rows:
        for option in row["options"]:
            ending = size(tokenizer, fill_in(row["question"], option))
            cut += ending > of_ending or size(tokenizer, row["context"]) + min(ending, of_ending) + 3 > length
    notes = [note for note in task.all_notes if note.endswith("cut")]
    assert cut > 0 and len(notes) == 1 and notes[0].startswith(f"train: {cut} of 40 options")
