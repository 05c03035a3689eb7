import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ds_bert.errors import UserError
from ds_bert.meta.tasks.groups import (
    inverse_frequency_matrix,
    k_means,
    model_word_vectors,
    sentence_clusters,
    text_word_vectors,
)
from ds_bert.meta.tasks.text_index import Sentences, TextIndex


def write_model(folder: Path, rows: int, name: str = "bert.embeddings.word_embeddings.weight") -> np.ndarray:
    folder.mkdir()
    matrix = np.random.default_rng(0).standard_normal((rows, 6)).astype(np.float32)
    save_file({"other": np.zeros(2, dtype=np.float32), name: matrix}, folder / "model.safetensors")
    return matrix


def test_a_words_vector_is_the_mean_of_its_tokens_rows(index: TextIndex, tmp_path: Path) -> None:
    tokenizer = index.corpus.tokenizer
    matrix = write_model(tmp_path / "model", tokenizer.size + 2)
    means = np.stack([matrix[tokenizer.encode([word])[0]].mean(axis=0) for word in index.words])
    centred = means - means.mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert np.allclose(model_word_vectors(index, tmp_path / "model"), expected, atol=1e-6)
    assert len({len(tokenizer.encode([word])[0]) for word in index.words}) > 1


def test_models_that_do_not_fit_are_refused(index: TextIndex, tmp_path: Path) -> None:
    size = index.corpus.tokenizer.size
    write_model(tmp_path / "small", size - 1)
    with pytest.raises(UserError, match=rf"small: word embeddings of shape \({size - 1}, 6\)"):
        model_word_vectors(index, tmp_path / "small")
    write_model(tmp_path / "headless", size, "weight")
    with pytest.raises(UserError, match="headless: none of 1 safetensors files"):
        model_word_vectors(index, tmp_path / "headless")
    write_model(tmp_path / "foreign", size)
    tokens = index.corpus.tokenizer.tokens
    (tmp_path / "foreign" / "vocab.txt").write_text("\n".join([*tokens[:6], *tokens[:5:-1]]))
    with pytest.raises(UserError, match="foreign: has another tokenizer"):
        model_word_vectors(index, tmp_path / "foreign")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(os.urandom(64))
    with pytest.raises(UserError, match=r"broken/model\.safetensors: its word embeddings cannot be read"):
        model_word_vectors(index, tmp_path / "broken")


def test_the_matrix_of_sentences_and_words(index: TextIndex) -> None:
    chosen = np.flatnonzero(index.usable)[::7]
    found = inverse_frequency_matrix(index, chosen).toarray()
    expected = np.zeros_like(found)
    for word in range(len(index.words)):
        postings = index.postings[index.posting_starts[word] : index.posting_starts[word + 1]]
        expected[np.isin(chosen, postings), word] = 1 + np.log(index.usable.sum() / len(postings))
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(found, expected / np.maximum(lengths, 1e-12), atol=1e-6)


def test_vectors_and_clusters_are_the_same_for_the_same_seed(index: TextIndex) -> None:
    vectors = text_word_vectors(index, 200, seed=3)
    assert np.array_equal(vectors, text_word_vectors(index, 200, seed=3))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    one, other = (sentence_clusters(index, vectors, 5, 300, seed=3) for _ in range(2))
    assert one.names == other.names and np.array_equal(one.sentences, other.sentences)


def test_every_sentence_is_in_one_cluster(index: TextIndex) -> None:
    groups = sentence_clusters(index, text_word_vectors(index, 10_000, seed=0), 6, 10_000, seed=0)
    sentences = Sentences(index.corpus)
    assert len(set(groups.sentences.tolist())) == len(groups.sentences) == groups.starts[-1]
    assert index.usable[groups.sentences].all() and len(groups.sentences) > 0.9 * index.usable.sum()
    assert groups.sentences.max() < len(sentences) and len(groups.names) == len(groups.vectors) == 6
    half = sentence_clusters(index, text_word_vectors(index, 10_000, seed=0), 6, int(index.usable.sum()) // 2, seed=0)
    assert 0.4 < len(half.sentences) / len(groups.sentences) < 0.6


def test_k_means_puts_what_is_near_together() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    rows = (np.eye(3)[truth] * 5 + rng.standard_normal((300, 3)) * 0.3).astype(np.float32)
    clusters, centres = k_means(rows, 3, seed=0)
    assert len({(one, other) for one, other in zip(truth.tolist(), clusters.tolist(), strict=True)}) == 3
    nearest = np.linalg.norm(rows[:, None] - centres[None], axis=2).argmin(axis=1)
    assert np.array_equal(nearest, clusters)
    assert len(k_means(rows[:2], 10, seed=0)[1]) == 2
