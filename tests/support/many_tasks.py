"""Tiny data of tasks in the layouts users have: a text, pairs, a regression, two validation sets, and one's own."""

import json
import random
from pathlib import Path

from tests.support.model_folder import write_bert_folder

GOOD, BAD = ["good", "great", "fine", "nice"], ["bad", "awful", "poor", "sad"]
FILLER = ["film", "the", "was", "a", "story", "it"]
TASKS = ["SST-2", "STS-B", "MRPC", "MNLI"]
RELATIONS = ["entailment", "neutral", "contradiction"]


def _text(chance: random.Random, word: str, most: int = 8) -> str:
    words = [chance.choice(FILLER) for _ in range(chance.randint(1, most))] + [word]
    chance.shuffle(words)
    return " ".join(words)


def _write(path: Path, rows: list[list[str]], separator: str = "\t") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(separator.join(row) + "\n" for row in rows), encoding="utf-8")


def _relations(chance: random.Random, count: int, has_index: bool, label: str | None) -> list[list[str]]:
    """A file's rows, the header first."""
    rows = [[*(["index"] if has_index else []), "sentence1", "sentence2", *([label] if label else [])]]
    for number in range(count):
        relation = number % 3
        texts = [_text(chance, chance.choice(GOOD)), _text(chance, chance.choice((GOOD, FILLER, BAD)[relation]), 3)]
        rows.append([*([str(number)] if has_index else []), *texts, *([RELATIONS[relation]] if label else [])])
    return rows


def _write_relations(chance: random.Random, glue: Path, train: int, others: int) -> None:
    """Write MNLI, whose mismatched files are smaller, and the diagnostic set."""
    _write(glue / "MNLI" / "train.tsv", _relations(chance, train, False, "gold_label"))
    for genres, count in (("matched", others), ("mismatched", others - 2)):
        _write(glue / "MNLI" / f"dev_{genres}.tsv", _relations(chance, count, False, "gold_label"))
        _write(glue / "MNLI" / f"test_{genres}.tsv", _relations(chance, count, True, None))
    _write(glue / "diagnostic" / "diagnostic.tsv", _relations(chance, 4, True, None))
    (_, *full) = _relations(chance, 5, False, "Label")
    _write(glue / "diagnostic" / "diagnostic-full.tsv", [["Premise", "Hypothesis", "Label"], *full])


def write_tasks(folder: Path, train: int = 24, others: int = 9) -> Path:
    """Write ``glue/``, ``own.json`` with its files, and ``model/``; return the folder."""
    chance = random.Random(1)
    for split, count in (("train", train), ("dev", others), ("test", others)):
        labelled = split != "test"
        sentiments, pairs, scores, own = [], [], [], []
        for number in range(count):
            label = number % 2
            first = chance.choice((BAD, GOOD)[label])
            same = chance.choice((BAD, GOOD)[label if chance.random() < 0.5 else 1 - label])
            agrees = (same in GOOD) == (first in GOOD)
            one, two = _text(chance, first), _text(chance, same, 3)
            index = [] if labelled else [str(number)]
            sentiments.append([*index, one, *([str(label)] if labelled else [])])
            pairs.append([*([str(int(agrees))] if labelled else index), one, two])
            scores.append(
                [*([] if labelled else [str(number)]), one, two, *([f"{4.0 * agrees:.1f}"] if labelled else [])]
            )
            own.append([one, ("negative", "positive")[label]])
        head = [] if labelled else ["index"]
        label_column = ["label"] if labelled else []
        glue = folder / "glue"
        _write(glue / "SST-2" / f"{split}.tsv", [[*head, "sentence", *label_column], *sentiments])
        _write(
            glue / "MRPC" / f"{split}.tsv", [[*(["Quality"] if labelled else head), "#1 String", "#2 String"], *pairs]
        )
        score = ["score"] if labelled else []
        _write(glue / "STS-B" / f"{split}.tsv", [[*head, "sentence1", "sentence2", *score], *scores])
        _write(folder / f"own_{split}.csv", [["text", "label"], *own], ",")
    _write_relations(chance, glue, train, others)
    own_task = {
        "name": "reviews",
        "train_file": "own_train.csv",
        "validation_file": "own_dev.csv",
        "test_file": "own_test.csv",
        "labels": ["positive", "negative"],
        "metric": "macro_f1",
    }
    (folder / "own.json").write_text(json.dumps([*TASKS, own_task]))
    write_bert_folder(folder / "model", [*GOOD, *BAD, *FILLER], layers=4)
    return folder
