"""Make a training and a validation file of SQuAD v2.0 from its development set; --help says how."""

import argparse
import json
from pathlib import Path
from typing import Any


def main() -> None:
    """Every second article of the development set goes to training, behind the articles of ``--train_file``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--train_file", type=Path, required=True)
    parser.add_argument("--dev_file", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    flags = parser.parse_args()
    train, dev = (json.loads(path.read_text(encoding="utf-8"))["data"] for path in (flags.train_file, flags.dev_file))
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    for name, articles in (("train", train + dev[::2]), ("dev", dev[1::2])):
        content = {"version": "v2.0", "data": articles}
        (flags.output_dir / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        questions = [question for article in articles for question in _questions(article)]
        impossible = sum(question.get("is_impossible", False) for question in questions)
        print(f"{name}: {len(articles)} articles, {len(questions)} questions, {impossible} without answer")


def _questions(article: dict[str, Any]) -> list[dict[str, Any]]:
    return [question for paragraph in article["paragraphs"] for question in paragraph["qas"]]


if __name__ == "__main__":
    main()
