"""Groups of sentences, any few of which are the classes of a task: those that hold a word, or that are alike."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ds_bert.data.mapping import map_array
from ds_bert.data.randomness import random_bits, uniform
from ds_bert.data.tasks.text_index import TextIndex
from ds_bert.files import read_json, write_json

_VALIDATION = 0x7A5C  # any constant: which groups are held out does not depend on the seed
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
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
        write_json(folder / "names.json", self.names)

    @classmethod
    def open(cls, folder: Path) -> "Groups":
        """Open groups that `save` wrote; their arrays are memory-mapped."""
        arrays = {name: map_array(folder / f"{name}.npy") for name in _ARRAYS}
        return cls(names=read_json(folder / "names.json"), **arrays)


def word_groups(index: TextIndex) -> Groups:
    """Make one group of each word: the sentences that hold it. Words and groups have the same numbers."""
    count = len(index.words)
    clusters, vectors = np.zeros(count, dtype=np.int64), np.zeros((count, 0), dtype=np.float32)
    return Groups(index.words, index.posting_starts, index.postings, clusters, vectors)


def held_out(count: int, share: float) -> np.ndarray:
    """Say which of ``count`` groups, or documents, make validation tasks only, bool (count,)."""
    return uniform(random_bits(_VALIDATION, np.arange(count))) < share
