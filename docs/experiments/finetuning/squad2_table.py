"""SQuAD v2.0: is a threshold for no answer worth more than answering always or never? Scores without ds_bert's code.

python squad2_table.py --dev_file results/data/dev.json --evaluation span=results/span/evaluation beam=…
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from squad_answers import Question, measures, read, words

Scores = Mapping[str, float]  # F1 of a question's text, by its id


def f1_of_each(questions: Sequence[Question], texts: Mapping[str, str]) -> dict[str, float]:
    """Return each question's F1 in percent."""
    return {question.id: measures([question], texts)["f1"] for question in questions}


def mean_f1(ids: Sequence[str], said: Scores, silent: Scores, odds: Mapping[str, float], threshold: float) -> float:
    """Return the mean F1 where questions of higher odds than ``threshold`` are not answered."""
    return float(np.mean([silent[name] if odds[name] > threshold else said[name] for name in ids]))


def tuned(ids: Sequence[str], said: Scores, silent: Scores, odds: Mapping[str, float]) -> float:
    """Return the threshold with the highest mean F1 over ``ids``."""
    order = sorted(ids, key=odds.__getitem__)
    gains = np.cumsum([said[name] - silent[name] for name in order])
    at_threshold = {odds[name]: gain for name, gain in zip(order, gains, strict=True)}  # the last of equal odds
    best = max(at_threshold, key=at_threshold.__getitem__)
    return best if at_threshold[best] > 0 else -np.inf


def row(questions: Sequence[Question], folder: Path) -> list[float]:
    """Return the F1 of: always, never, tuned on the same questions, tuned on one half and measured on the other."""
    best = json.loads((folder / "nbest_predictions.json").read_text())
    odds = json.loads((folder / "null_odds.json").read_text())
    texts = {name: next((entry["text"] for entry in entries if entry["text"]), "") for name, entries in best.items()}
    said, silent = f1_of_each(questions, texts), f1_of_each(questions, dict.fromkeys(texts, ""))
    ids = [question.id for question in questions]
    halves = ids[: len(ids) // 2], ids[len(ids) // 2 :]

    def f1(measured: Sequence[str], threshold: float) -> float:
        return mean_f1(measured, said, silent, odds, threshold)

    crossed = [
        f1(there, tuned(here, said, silent, odds)) * len(there) / len(ids) for here, there in (halves, halves[::-1])
    ]
    return [f1(ids, np.inf), f1(ids, -np.inf), f1(ids, tuned(ids, said, silent, odds)), sum(crossed)]


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev_file", type=Path, required=True)
    parser.add_argument("--evaluation", nargs="+", required=True, help="NAME=FOLDER of nbest_predictions.json")
    flags = parser.parse_args()
    # As the official script does: an answer of punctuation alone is none; some annotators gave ".".
    questions = [
        question._replace(answers=[answer for answer in question.answers if words(answer[0])])
        for question in read(flags.dev_file, None)
    ]
    print("| F1 | always | never | tuned | tuned on the other half |\n|---|---|---|---|---|")
    for argument in flags.evaluation:
        name, _, folder = argument.partition("=")
        print(f"| {name} | " + " | ".join(f"{f1:.2f}" for f1 in row(questions, Path(folder))) + " |")


if __name__ == "__main__":
    main()
