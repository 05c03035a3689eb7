"""A small corpus and the data folder made of it."""

import json
import random
from pathlib import Path

from ds_bert.cli import main

VOCABULARY = 200


def write_documents(path: Path, documents: int = 60, seed: int = 0) -> Path:
    """Write documents of made-up words, a sentence a line, a blank line between documents."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghijklmnoprstuvwyz", k=chance.randint(2, 7))) for _ in range(200)]
    lines = []
    for _ in range(documents):
        for _ in range(chance.randint(3, 9)):
            lines.append(" ".join(chance.choices(words, k=chance.randint(3, 12))) + " .")
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def prepare_data(folder: Path, *flags: str) -> Path:
    """Prepare a data folder of such text, with a vocabulary trained on it and some documents held out."""
    text = write_documents(folder / "text.txt")
    command = ["prepare", "--input", str(text), "--train_vocab", str(VOCABULARY), "--output_dir", str(folder / "data")]
    assert main([*command, "--num_workers", "1", "--validation_share", "0.1", *flags]) == 0
    return folder / "data"


def write_model(path: Path, **changes: object) -> Path:
    """Write the configuration of a BERT of four layers of width 32 that suits the vocabulary."""
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    path.write_text(json.dumps(fields | changes))
    return path
