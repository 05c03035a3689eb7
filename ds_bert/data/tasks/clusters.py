"""k-means: clusters of words, to sample classes that are alike, and clusters of sentences, to be classes."""

from dataclasses import replace

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from ds_bert.data.tasks.groups import Groups
from ds_bert.data.tasks.text_index import TextIndex
from ds_bert.data.tasks.vectors import inverse_frequency_matrix, unit_rows

_BATCH = 4096
_NAMING_WORDS = 3


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
    model = MiniBatchKMeans(count, batch_size=_BATCH, n_init=1, random_state=seed & 0xFFFFFFFF)
    return model.fit_predict(vectors).astype(np.int64), model.cluster_centers_
