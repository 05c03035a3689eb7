import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy

from ds_bert.cli import main
from ds_bert.data.shards import MANIFEST, ShardedCorpus, token_dtype
from ds_bert.errors import UserError

DOCUMENTS = [[3, 4], [5], [1, 2, 3], [9]]


def test_a_corpus_reads_back(write_corpus: Callable[..., Path]) -> None:
    corpus = ShardedCorpus.open(write_corpus(DOCUMENTS, shards=2))
    assert (corpus.num_documents, corpus.num_sentences, corpus.num_tokens) == (4, 7, 27)
    assert [shard.first_token for shard in corpus.shards] == [0, 12]
    assert corpus.shards[0].sentences.tolist() == [0, 3, 7, 12] and corpus.shards[0].documents.tolist() == [0, 2, 3]
    assert not corpus.shards[0].tokens.flags.owndata  # mapped, not read
    corpus.verify()


def test_wide_vocabularies_get_wide_tokens() -> None:
    assert token_dtype(65_535) is np.uint16 and token_dtype(65_536) is np.uint32


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def pickle_object(path: Path) -> None:
    size = path.stat().st_size
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with open(path, "ab") as file:
        file.write(b" " * (size - path.stat().st_size))


def shift_ends(path: Path) -> None:
    array = np.load(path)
    np.save(path, array + 1)


def change_dtype(path: Path) -> None:
    np.save(path, np.load(path).view(np.int16 if path.stem == "tokens" else np.uint64))


@pytest.mark.parametrize("name", ["tokens", "sentences", "documents"])
@pytest.mark.parametrize("damage", [truncate, Path.unlink, change_dtype])
def test_damage_is_found_on_opening(write_corpus: Callable[..., Path], damage: Callable, name: str) -> None:
    folder = write_corpus(DOCUMENTS, shards=2)
    damage(folder / "shard-00001" / f"{name}.npy")
    with pytest.raises(UserError, match=f"shard-00001/{name}.npy"):
        ShardedCorpus.open(folder)


@pytest.mark.parametrize("name", ["sentences", "documents"])
def test_wrong_ends_of_offsets_are_found_on_opening(write_corpus: Callable[..., Path], name: str) -> None:
    folder = write_corpus(DOCUMENTS)
    shift_ends(folder / "shard-00000" / f"{name}.npy")
    with pytest.raises(UserError, match=f"{name}.npy: offsets run from 1"):
        ShardedCorpus.open(folder)


def test_pickled_arrays_are_not_loaded(write_corpus: Callable[..., Path]) -> None:
    folder = write_corpus([[500]] * 4)
    pickle_object(folder / "shard-00000" / "tokens.npy")
    with pytest.raises(UserError, match=r"tokens\.npy"):
        ShardedCorpus.open(folder)


def test_a_flipped_byte_is_found_by_verify(write_corpus: Callable[..., Path]) -> None:
    folder = write_corpus(DOCUMENTS, shards=2)
    path = folder / "shard-00001" / "tokens.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    corpus = ShardedCorpus.open(folder)
    with pytest.raises(UserError, match=r"shard-00001/tokens\.npy: its checksum"):
        corpus.verify()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda manifest: manifest.update(format_version=9), "format_version is 9"),
        (lambda manifest: manifest.pop("shards"), "damaged"),
        (lambda manifest: manifest.update(shards=[]), "damaged"),
        (lambda manifest: manifest["shards"][0].update(num_tokens="many"), "damaged"),
        (lambda manifest: manifest["shards"][0].update(num_tokens=5), "tokens.npy: holds"),
    ],
)
def test_a_damaged_manifest_is_refused(write_corpus: Callable[..., Path], change: Callable, words: str) -> None:
    path = write_corpus(DOCUMENTS) / "dataset.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=words):
        ShardedCorpus.open(path.parent)


def test_folders_without_a_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data folder"):
        ShardedCorpus.open(tmp_path)
    (tmp_path / "prepare.json").touch()
    with pytest.raises(UserError, match="unfinished"):
        ShardedCorpus.open(tmp_path)


def test_another_tokenizer_is_refused(write_corpus: Callable[..., Path]) -> None:
    folder = write_corpus(DOCUMENTS)
    path = folder / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"ba"', '"changed"'))
    with pytest.raises(UserError, match="not the tokenizer of these shards"):
        _ = ShardedCorpus.open(folder).tokenizer


def test_the_entropy_of_tokens_is_kept(tmp_path: Path, vocabulary_file: Path) -> None:
    (tmp_path / "text.txt").write_text("babe bobu bobu.\nbobu babe §.\n\nbabe babe babe.\n" * 40)
    flags = ["--input", str(tmp_path / "text.txt"), "--tokenizer_name", str(vocabulary_file), "--shard_tokens", "100"]
    assert main(["prepare", *flags, "--output_dir", str(tmp_path / "data"), "--num_workers", "1"]) == 0
    corpus = ShardedCorpus.open(tmp_path / "data")
    assert len(corpus.shards) > 1
    tokens = np.concatenate([shard.tokens for shard in corpus.shards])
    assert corpus.tokenizer.unk_id in tokens  # it is never masked
    _, counts = np.unique(tokens[tokens != corpus.tokenizer.unk_id], return_counts=True)
    assert corpus.unigram_entropy == pytest.approx(entropy(counts))
    manifest = tmp_path / "data" / MANIFEST
    for about in ({}, None, {"unigram_entropy": "much"}):
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"about": about}))
        assert ShardedCorpus.open(tmp_path / "data").unigram_entropy is None
