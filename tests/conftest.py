"""What every test process needs before anything heavy is imported, the order of the tests, and a vocabulary."""

import gc
import os
from pathlib import Path

import pytest

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

WORDS = [f"{first}{second}" for first in "bcdfghklmnprst" for second in ("a", "e", "i", "o", "u", "au", "ei", "ou")]
PIECES = ["##" + word for word in WORDS[:40]]

# Folders whose files take longest. They are begun first, so that no worker is left with one when the others are done.
LONG = ("parity", "system", "cuda", "distributed", "checkpoint", "engine", "commands")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {folder: place for place, folder in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(LONG)))
    gc.collect()
    gc.freeze()  # what is here for good, and need not be looked at in every collection


@pytest.fixture
def vocabulary_file(tmp_path: Path) -> Path:
    """A vocabulary of 5 special tokens, 113 words and signs, and 40 continuation pieces."""
    path = tmp_path / "vocabulary" / "vocab.txt"
    path.parent.mkdir()
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS, *PIECES]) + "\n")
    return path
