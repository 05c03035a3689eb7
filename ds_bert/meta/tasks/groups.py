"""Groups of sentences, any few of which are the classes of a task: those that hold a word, or are alike by its vectors.

k-means finds both the groups of sentences that are alike, and the clusters of groups that are hard to tell apart.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from scipy.sparse import csr_matrix

from ds_bert.data.sampler import random_bits, uniform
from ds_bert.data.shards import map_arrays, save_arrays
from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.errors import UserError
from ds_bert.files import read_json, reading, write_json
from ds_bert.meta.tasks.text_index import TextIndex

_VALIDATION = 0x7A5C  # any constant: which groups are held out does not depend on the seed
_NAMING_WORDS = 3  # of a sentence cluster
_BATCH = 4096  # of k-means
_ARRAYS = ("starts", "sentences", "clusters", "vectors")


@dataclass(frozen=True)
class Groups:
    """Named groups of sentences.

    Args:
        names: of the groups.
        starts, sentences: the sentences of group g are ``sentences[starts[g]:starts[g + 1]]``.
        clusters: int64 (groups,): which groups are alike; all 0 where that was not asked for.
        vectors: float32 (groups, D), of length 1: how alike they are; D = 0 where that was not asked for.
    """

    names: list[str]
    starts: np.ndarray
    sentences: np.ndarray
    clusters: np.ndarray
    vectors: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Sentences of each group, int64 (groups,)."""
        return np.diff(self.starts)

    def members(self, group: int) -> np.ndarray:
        """Return a group's sentences, int64."""
        return self.sentences[self.starts[group] : self.starts[group + 1]]

    def save(self, folder: Path) -> None:
        """Write the groups to a folder."""
        save_arrays(folder, {name: getattr(self, name) for name in _ARRAYS})
        write_json(folder / "names.json", self.names)

    @classmethod
    def open(cls, folder: Path) -> "Groups":
        """Open groups that `save` wrote; their arrays are memory-mapped."""
        return cls(names=read_json(folder / "names.json"), **map_arrays(folder, _ARRAYS))


def word_groups(index: TextIndex) -> Groups:
    """Make one group of each word: the sentences that hold it. Words and groups have the same numbers."""
    count = len(index.words)
    clusters, vectors = np.zeros(count, dtype=np.int64), np.zeros((count, 0), dtype=np.float32)
    return Groups(index.words, index.posting_starts, index.postings, clusters, vectors)


def held_out(count: int, share: float) -> np.ndarray:
    """Say which of ``count`` groups, or documents, make validation tasks only, bool (count,)."""
    return uniform(random_bits(_VALIDATION, np.arange(count))) < share


def with_clusters(groups: Groups, num_clusters: int, seed: int) -> Groups:
    """Sort groups into clusters by their vectors."""
    clusters, _ = k_means(groups.vectors, num_clusters, seed)
    return replace(groups, clusters=clusters)


def sentence_clusters(
    index: TextIndex, word_vectors: np.ndarray, num_clusters: int, max_sentences: int, seed: int
) -> Groups:
    """Group sentences whose words have similar vectors, rare words weighing more.

    Args:
        index: the sentences.
        word_vectors: float32 (words, D).
        num_clusters: of sentences, at most.
        max_sentences: how many sentences, evenly spread, are grouped.
        seed: of k-means.

    Returns:
        Groups named by the three words that are most frequent in a cluster, compared with all text.
    """
    sentences = index.some_sentences(max_sentences)
    matrix = inverse_frequency_matrix(index, sentences)
    vectors = unit_rows(matrix @ word_vectors)
    known = np.flatnonzero(np.linalg.norm(vectors, axis=1) > 0.5)  # the others have no word of the index
    clusters, centres = k_means(vectors[known], num_clusters, seed)
    order = np.argsort(clusters, kind="stable")
    sizes = np.bincount(clusters, minlength=len(centres))
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    average = np.asarray(matrix.mean(axis=0)).ravel()
    names = []
    for cluster in range(len(centres)):
        members = known[order[starts[cluster] : starts[cluster + 1]]]
        strength = np.asarray(matrix[members].mean(axis=0)).ravel() - average if len(members) else average
        names.append("+".join(index.words[word] for word in np.argsort(-strength, kind="stable")[:_NAMING_WORDS]))
    no_clusters = np.zeros(len(centres), dtype=np.int64)
    return Groups(names, starts, sentences[known][order], no_clusters, unit_rows(centres))


def k_means(vectors: np.ndarray, num_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort vectors into clusters; the same for the same seed on one thread.

    Args:
        vectors: float32 (rows, D).
        num_clusters: at most; never more than there are rows.
        seed: of the first centres.

    Returns:
        The cluster of each row, int64 (rows,), and the centres, (clusters, D).
    """
    if not len(vectors):
        return np.zeros(0, dtype=np.int64), vectors
    count = max(1, min(num_clusters, len(vectors)))
    from sklearn.cluster import MiniBatchKMeans  # takes a second to import, which --help need not wait for

    model = MiniBatchKMeans(count, batch_size=_BATCH, n_init=1, random_state=seed & 0xFFFFFFFF)
    return model.fit_predict(vectors).astype(np.int64), model.cluster_centers_


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
    from sklearn.decomposition import TruncatedSVD

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
