"""The sentences of a corpus by their numbers, and the documents that they are from."""

import numpy as np

from ds_bert.data.shards import ShardedCorpus


class Sentences:
    """Reads single sentences of a corpus, numbered across its shards."""

    def __init__(self, corpus: ShardedCorpus) -> None:
        self._shards = corpus.shards
        counts = [len(shard.sentences) - 1 for shard in corpus.shards]
        self._firsts = np.concatenate([[0], np.cumsum(counts)])
        ends = [shard.documents[1:] + first for shard, first in zip(corpus.shards, self._firsts, strict=False)]
        self._document_ends = np.concatenate(ends)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def tokens(self, number: int) -> np.ndarray:
        """Return a sentence's token ids."""
        index = int(np.searchsorted(self._firsts, number, side="right")) - 1
        shard, place = self._shards[index], number - self._firsts[index]
        return shard.tokens[shard.sentences[place] : shard.sentences[place + 1]]

    def documents(self, numbers: np.ndarray) -> np.ndarray:
        """Return the documents that sentences are from, int64 of the shape of ``numbers``."""
        return np.searchsorted(self._document_ends, numbers, side="right")

    def bounds(self, document: int) -> tuple[int, int]:
        """Return a document's first sentence and the one after its last."""
        first = int(self._document_ends[document - 1]) if document else 0
        return first, int(self._document_ends[document])
