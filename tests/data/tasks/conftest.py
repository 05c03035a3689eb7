import random
from collections.abc import Callable
from pathlib import Path

import pytest

from ds_bert.data.prepare import PrepareSettings, prepare
from ds_bert.data.shards import ShardedCorpus
from ds_bert.data.tasks.text_index import TextIndex, build_index

STEMS = [f"{first}{second}" for first in "bcdfghklmnprst" for second in ("a", "e", "i", "o", "u", "au", "ei", "ou")]


@pytest.fixture
def write_text(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes documents of random sentences; some words have several pieces."""

    def write(documents: int = 40, sentences: int = 12, seed: int = 0) -> Path:
        rng = random.Random(seed)
        words = [*STEMS[:30], *(first + second for first in STEMS[:5] for second in STEMS[:4])]
        lines = []
        for _ in range(documents):
            for _ in range(sentences):
                lines.append(" ".join(rng.choices(words, k=rng.randint(3, 14))) + " .")
            lines.append("")
        path = tmp_path / "text.txt"
        path.write_text("\n".join(lines))
        return path

    return write


@pytest.fixture
def corpus(tmp_path: Path, write_text: Callable[..., Path], vocabulary_file: Path) -> ShardedCorpus:
    """A prepared corpus of several shards."""
    folder = tmp_path / "prepared"
    settings = PrepareSettings(folder, (str(write_text()),), tokenizer_name=str(vocabulary_file), shard_tokens=1500)
    prepare(settings)
    return ShardedCorpus.open(folder)


@pytest.fixture
def index(corpus: ShardedCorpus) -> TextIndex:
    """The corpus, indexed."""
    return build_index(corpus, min_frequency=30, max_sentence_tokens=20)
