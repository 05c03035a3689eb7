import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ds_bert.data.prepare import PrepareSettings, prepare
from ds_bert.data.shards import ShardedCorpus
from ds_bert.meta.tasks.text_index import TextIndex, build_index
from tests.support.model_folder import write_vocabulary

STEMS = [f"{first}{second}" for first in "bcdfghklmnprst" for second in ("a", "e", "i", "o", "u", "au", "ei", "ou")]


def _write_text(path: Path, documents: int = 40, sentences: int = 12, seed: int = 0, capitals: bool = False) -> Path:
    """Write documents of random sentences; some words have several pieces."""
    rng = random.Random(seed)
    words = [*STEMS[:30], *(first + second for first in STEMS[:5] for second in STEMS[:4])]
    lines = []
    for _ in range(documents):
        for _ in range(sentences):
            sentence = " ".join(rng.choices(words, k=rng.randint(3, 14))) + " ."
            lines.append(sentence.capitalize() if capitals else sentence)
        lines.append("")
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def write_text(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a text."""
    return partial(_write_text, tmp_path / "text.txt")


@pytest.fixture(scope="session")
def large_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough sentences for tasks of every kind, each with a capital; beside it a vocabulary of both cases."""
    folder = tmp_path_factory.mktemp("text")
    write_vocabulary(folder, [*STEMS, *(stem.capitalize() for stem in STEMS)])
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    return _write_text(folder / "text.txt", documents=200, capitals=True)


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
