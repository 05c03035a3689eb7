"""A vocabulary."""

from pathlib import Path

import pytest


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    letters = [chr(code) for code in range(ord("a"), ord("z"))]  # no z: words with it are unknown
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters, *("##" + letter for letter in letters)]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*tokens, *(f"[unused{number}]" for number in range(60))]))
    return path
