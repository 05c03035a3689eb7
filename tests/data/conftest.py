import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from ds_bert.data.shards import shard_name, write_manifest, write_shard
from ds_bert.data.vocabulary import load_tokenizer


@pytest.fixture
def write_corpus(tmp_path: Path, vocabulary_file: Path) -> Callable[..., Path]:
    """Return a function that writes a data folder of random tokens, given the sentence lengths of each document."""

    def write(documents: Sequence[Sequence[int]], shards: int = 1, name: str = "corpus") -> Path:
        folder = tmp_path / name
        tokenizer = load_tokenizer(vocabulary_file)
        tokenizer.save(folder / "tokenizer")
        rng = np.random.default_rng(len(documents))
        entries = []
        for index, part in enumerate(np.array_split(np.arange(len(documents)), shards)):
            lengths = np.array([length for document in part for length in documents[document]])
            tokens = rng.integers(5, tokenizer.size, size=lengths.sum()).astype(np.uint16)
            sizes = np.array([len(documents[document]) for document in part])
            entries.append(write_shard(folder / shard_name(index), tokens, lengths, sizes))
        write_manifest(folder, tokenizer, entries, {})
        return folder

    return write


@pytest.fixture
def random_documents() -> Callable[..., list[list[int]]]:
    """Return a function that draws sentence lengths for documents of up to ``most`` sentences."""

    def draw(count: int, most: int, seed: int = 0) -> list[list[int]]:
        rng = random.Random(seed)
        return [[rng.randint(1, 30) for _ in range(rng.randint(1, most))] for _ in range(count)]

    return draw
