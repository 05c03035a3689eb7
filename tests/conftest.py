"""What every test process needs before anything heavy is imported, and a vocabulary."""

import os
from pathlib import Path

import pytest

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

WORDS = [f"{first}{second}" for first in "bcdfghklmnprst" for second in ("a", "e", "i", "o", "u", "au", "ei", "ou")]
PIECES = ["##" + word for word in WORDS[:40]]


@pytest.fixture
def vocabulary_file(tmp_path: Path) -> Path:
    """A vocabulary of 5 special tokens, 113 words and signs, and 40 continuation pieces."""
    path = tmp_path / "vocabulary" / "vocab.txt"
    path.parent.mkdir()
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS, *PIECES]) + "\n")
    return path
