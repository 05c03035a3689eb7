"""Mapped arrays: the same as loaded ones, and no file stays open for them."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ds_bert.data.feature_cache import cached_features
from ds_bert.data.features import make_features
from ds_bert.data.shards import ShardedCorpus, map_array, write_manifest, write_shard
from ds_bert.data.tokenizer_files import wordpiece
from ds_bert.data.vocabulary import SPECIAL_TOKENS, Tokenizer
from ds_bert.errors import UserError

SHARDS = 100


@pytest.fixture
def few_files() -> Iterator[int]:
    """Let this process open ten more files than it has open; yields how many it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 10, hard))
    yield open_now
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def mapped(path: Path) -> int:
    """How many times the file is mapped into this process."""
    return Path("/proc/self/maps").read_text().count(str(path))


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "i8", "f4", ">i4", "bool"])
@pytest.mark.parametrize("shape", [(0,), (1,), (100_000,), (3, 5), (0, 4), ()])
def test_arrays_are_as_they_were_written(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    path = tmp_path / "a.npy"
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    np.save(path, array)
    found = map_array(path)
    np.testing.assert_array_equal(found, array)
    np.save(tmp_path / "b.npy", np.asfortranarray(array))
    np.testing.assert_array_equal(map_array(tmp_path / "b.npy"), array)
    assert (found.dtype, found.shape, found.flags.writeable) == (array.dtype, shape, False)
    assert mapped(path) == 1
    part = found[:1] if shape else found[...]
    del found
    np.testing.assert_array_equal(part, array[:1] if shape else array)  # a view keeps the pages
    del part
    assert mapped(path) == 0


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError):
        map_array(path)
    np.savez(tmp_path / "b.npz", a=np.zeros(3))
    with pytest.raises(ValueError):
        map_array(tmp_path / "b.npz")
    np.save(path, np.zeros(100))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError):
        map_array(path)
    with pytest.raises(FileNotFoundError):
        map_array(tmp_path / "c.npy")


def write_corpus(folder: Path) -> None:
    tokens = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(100))]
    tokenizer = Tokenizer(wordpiece({token: place for place, token in enumerate(tokens)}, True), "test")
    tokenizer.save(folder / "tokenizer")
    entries = [
        write_shard(folder / f"shard-{number:05d}", np.full(9, number, np.uint16), np.array([4, 5]), np.array([2]))
        for number in range(SHARDS)
    ]
    write_manifest(folder, tokenizer, entries, {})


def test_a_corpus_has_more_shards_than_a_process_may_open_files(tmp_path: Path, few_files: int) -> None:
    write_corpus(tmp_path)
    corpus = ShardedCorpus.open(tmp_path)
    corpus.verify()
    assert [int(shard.tokens[8]) for shard in corpus.shards] == list(range(SHARDS))
    assert max(map(int, os.listdir("/proc/self/fd"))) <= few_files + 1


def test_many_caches_of_features_can_be_open(tmp_path: Path, few_files: int) -> None:
    made = [make_features([[number]], [1], 0, {"labels": np.array([number])}) for number in range(30)]
    found = [cached_features(tmp_path, {"number": number}, lambda n=number: made[n]) for number in range(30)]
    assert [int(features.tokens[0]) for features in found] == list(range(30))


def test_a_limit_of_open_files_is_not_taken_for_damage(tmp_path: Path, few_files: int) -> None:
    write_corpus(tmp_path)
    taken = []
    try:
        while True:
            taken.append(os.open(tmp_path, os.O_RDONLY))
    except OSError:
        os.close(taken.pop())  # dataset.json can be read, an array can be
    try:
        corpus = ShardedCorpus.open(tmp_path)
        assert len(corpus.shards) == SHARDS
        taken.append(os.open(tmp_path, os.O_RDONLY))
        with pytest.raises(UserError) as error:
            ShardedCorpus.open(tmp_path)
        assert "Too many open files" in str(error.value) and "anew" not in str(error.value)
    finally:
        for descriptor in taken:
            os.close(descriptor)
