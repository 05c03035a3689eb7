"""Groups of shards that sentence pairs are planned in: large enough to draw from, small enough to hold in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ds_bert.data.shards import Shard, ShardedCorpus

_FEWEST_TOKENS = 1 << 24
_FEWEST_DOCUMENTS = 2


@dataclass(frozen=True)
class Block:
    """Consecutive shards, planned together.

    Attributes:
        sentences: int64 of shape (sentences + 1,), where each sentence begins among the tokens of the whole corpus.
        documents: int64 of shape (documents + 1,), where each document begins among the block's sentences.
    """

    sentences: np.ndarray
    documents: np.ndarray

    @cached_property
    def document_starts(self) -> np.ndarray:
        """Where each document begins among the tokens of the whole corpus: int64 of shape (documents + 1,)."""
        return self.sentences[self.documents]


def blocks(corpus: ShardedCorpus) -> Iterator[Block]:
    """Yield the corpus in blocks, in order; each has two documents or more if the corpus has."""
    groups: list[list[Shard]] = [[]]
    num_tokens = num_documents = 0
    for shard in corpus.shards:
        groups[-1].append(shard)
        num_tokens += len(shard.tokens)
        num_documents += len(shard.documents) - 1
        if num_tokens >= _FEWEST_TOKENS and num_documents >= _FEWEST_DOCUMENTS:
            groups.append([])
            num_tokens = num_documents = 0
    if len(groups) > 1:  # what is left over is too small for a block of its own
        groups[-2].extend(groups.pop())
    for group in groups:
        yield _load(group)


def _load(shards: Sequence[Shard]) -> Block:
    sentences, documents, num_sentences = [], [], 0
    for shard in shards:
        sentences.append(shard.sentences[:-1] + shard.first_token)
        documents.append(shard.documents[:-1] + num_sentences)
        num_sentences += len(shard.sentences) - 1
    end = shards[-1].first_token + len(shards[-1].tokens)
    return Block(np.concatenate([*sentences, [end]]), np.concatenate([*documents, [num_sentences]]))
