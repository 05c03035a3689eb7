"""Vectors of words: rows of a model's embedding matrix, or what words stand together with."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD

from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.errors import UserError
from ds_bert.files import reading
from ds_bert.meta.tasks.text_index import TextIndex

_MATRIX = "embeddings.word_embeddings.weight"
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "spiece.model")
_DIMENSIONS = 64


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1, as float32; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def model_word_vectors(index: TextIndex, folder: Path) -> np.ndarray:
    """Return the words' rows of a model's embedding matrix, means where a word has several tokens.

    Args:
        index: the words.
        folder: of a Hugging Face model or a checkpoint, with safetensors.

    Returns:
        float32 (words, D), of length 1. What all words have in common, their mean, is taken off first.

    Raises:
        UserError: the folder holds no such matrix, or one of another vocabulary.
    """
    matrix = _read_matrix(folder)
    has_tokenizer = any((folder / name).is_file() for name in _VOCABULARIES)
    if has_tokenizer and load_tokenizer(folder).fingerprint != index.corpus.tokenizer.fingerprint:
        raise UserError(f"{folder}: has another tokenizer than the text; --embeddings needs a model of the same")
    needed = index.corpus.tokenizer.size
    if matrix.ndim != 2 or len(matrix) < needed:
        raise UserError(
            f"{folder}: word embeddings of shape {matrix.shape}, but the tokenizer has {needed} tokens; --embeddings "
            "needs a model of the same vocabulary"
        )
    if not len(index.words):
        return np.zeros((0, matrix.shape[1]), dtype=np.float32)
    sums = np.add.reduceat(matrix[index.pieces], index.piece_starts[:-1], axis=0)
    means = sums / np.diff(index.piece_starts)[:, None]
    return unit_rows(means - means.mean(axis=0))


def _read_matrix(folder: Path) -> np.ndarray:
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        with reading(path):
            pass  # what it cannot open, safe_open says is not there
        try:
            with safe_open(path, framework="np") as tensors:
                names = list(tensors.keys())
                found = [name for name in names if name.endswith(_MATRIX)]
                if found:
                    return tensors.get_tensor(found[0]).astype(np.float32)
        except (SafetensorError, TypeError, OSError) as error:
            raise UserError(f"{path}: its word embeddings cannot be read ({error}); needs fp32 safetensors") from None
    looked_at = f"none of {len(files)} safetensors files" if files else "no safetensors file"
    raise UserError(f"{folder}: {looked_at} with {_MATRIX}; --embeddings needs a model's folder")


def text_word_vectors(index: TextIndex, max_sentences: int, seed: int) -> np.ndarray:
    """Return what words stand together with in sentences: the leading singular vectors of the tf-idf matrix.

    Args:
        index: words and sentences.
        max_sentences: how many sentences, evenly spread, are looked at.
        seed: of the decomposition.

    Returns:
        float32 (words, D), of length 1, with D = 64, or fewer where there are few words.
    """
    matrix = inverse_frequency_matrix(index, index.some_sentences(max_sentences)).T.tocsr()
    dimensions = min(_DIMENSIONS, min(matrix.shape) - 1)
    if dimensions < 1:
        return np.ones((len(index.words), 1), dtype=np.float32)
    return unit_rows(TruncatedSVD(dimensions, random_state=seed & 0xFFFFFFFF).fit_transform(matrix))


def inverse_frequency_matrix(index: TextIndex, sentences: np.ndarray) -> csr_matrix:
    """Return which words stand in which sentences, (sentences, words), rare words weighing more; rows of length 1.

    Args:
        index: words and sentences.
        sentences: numbers, ascending.
    """
    counts = np.diff(index.posting_starts)
    rows = np.searchsorted(sentences, index.postings)
    known = sentences[np.minimum(rows, len(sentences) - 1)] == index.postings
    columns = np.repeat(np.arange(len(counts)), counts)[known]
    weights = np.log(index.usable.sum() / counts).astype(np.float32)[columns] + 1.0
    matrix = csr_matrix((weights, (rows[known], columns)), shape=(len(sentences), len(counts)))
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))).ravel()
    return csr_matrix(matrix.multiply(1.0 / np.maximum(lengths, 1e-12)[:, None]))
