"""A tokenised corpus on disk: memory-mapped shards of token ids with the offsets of sentences and documents.

A data folder holds::

    dataset.json            what there is, with sizes and checksums; written last, so a folder with it is complete
    tokenizer/              the tokenizer whose ids these are
    shard-00000/tokens.npy      token ids, uint16 (uint32 from 65,536 tokens on), shape (tokens,)
    shard-00000/sentences.npy   where each sentence begins among the tokens, int64, shape (sentences + 1,)
    shard-00000/documents.npy   where each document begins among the sentences, int64, shape (documents + 1,)

A document never spans two shards. Nothing here is pickled.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.arrays import (
    check_offsets,
    open_array,
    read_manifest,
    shard_name,
    token_dtype,
    tokenizer_of,
    verify_arrays,
    write_arrays,
)
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import write_json

FORMAT_VERSION = 1
MANIFEST = "dataset.json"
_ARRAYS = ("tokens", "sentences", "documents")
_COUNTS = ("num_tokens", "num_sentences", "num_documents")


@dataclass(frozen=True)
class Shard:
    """One shard's memory-mapped arrays and the place of its first token in the whole corpus."""

    tokens: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray
    first_token: int


class ShardedCorpus:
    """A data folder, open for reading; the arrays stay on disk until they are touched.

    Attributes:
        folder: the data folder.
        shards: its shards, in order.
        num_tokens, num_sentences, num_documents: the totals.
    """

    def __init__(self, folder: Path, shards: list[Shard], manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.shards = shards
        self._manifest = manifest
        self.num_tokens, self.num_sentences, self.num_documents = (
            sum(entry[count] for entry in manifest["shards"]) for count in _COUNTS
        )

    @classmethod
    def open(cls, folder: str | Path) -> "ShardedCorpus":
        """Open a data folder after cheap checks: sizes, dtypes, shapes and the ends of the offsets.

        Raises:
            UserError: naming the file that is missing, truncated or at odds with dataset.json.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        shards: list[Shard] = []
        first_token = 0
        for index, entry in enumerate(manifest["shards"]):
            shards.append(_open_shard(folder / shard_name(index), entry, manifest["vocab_size"], first_token))
            first_token += entry["num_tokens"]
        return cls(folder, shards, manifest)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the data. Raises `UserError` when it is not the one that wrote the shards."""
        return tokenizer_of(self.folder, self._manifest["tokenizer_sha256"], MANIFEST)

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that tells this data from other data: of the shards' checksums and the tokenizer's."""
        decisive = [self._manifest["tokenizer_sha256"], [shard["files"] for shard in self._manifest["shards"]]]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def verify(self) -> None:
        """Read everything and compare checksums. Raises `UserError` naming the first file that differs."""
        tokenizer_of(self.folder, self._manifest["tokenizer_sha256"], MANIFEST)
        verify_arrays(self.folder, self._manifest["shards"], MANIFEST)
        for index, shard in enumerate(self.shards):
            for name in ("sentences", "documents"):
                if np.any(np.diff(getattr(shard, name)) < 1):
                    raise UserError(f"{self.folder / shard_name(index) / name}.npy: its offsets do not increase")


def write_shard(
    folder: Path, tokens: np.ndarray, sentence_lengths: np.ndarray, document_lengths: np.ndarray
) -> dict[str, Any]:
    """Write one shard and return its entry in dataset.json; the shard counts only once it is listed there.

    Args:
        folder: the shard's folder, ``shard_name(index)``.
        tokens: ids, shape (tokens,).
        sentence_lengths: tokens of each sentence, shape (sentences,).
        document_lengths: sentences of each document, shape (documents,).
    """
    arrays = {"tokens": tokens, "sentences": _offsets(sentence_lengths), "documents": _offsets(document_lengths)}
    counts = (len(tokens), len(sentence_lengths), len(document_lengths))
    return {**dict(zip(_COUNTS, counts, strict=True)), "files": write_arrays(folder, arrays)}


def write_manifest(folder: Path, tokenizer: Tokenizer, shards: Iterable[dict[str, Any]], about: dict[str, Any]) -> None:
    """Write dataset.json, which makes the folder a complete data folder; ``about`` is kept for people to read."""
    manifest = {
        "format_version": FORMAT_VERSION,
        "vocab_size": tokenizer.size,
        "tokenizer_sha256": tokenizer.fingerprint,
        "about": about,
        "shards": list(shards),
    }
    write_json(folder / MANIFEST, manifest)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        found = "an unfinished data folder" if (folder / "prepare.json").is_file() else "no data folder"
        raise UserError(
            f"{folder}: {found}: it has no {MANIFEST}; make it with `ds-bert prepare --output_dir {folder}`"
        )
    manifest = read_manifest(path, FORMAT_VERSION)
    try:
        for entry in manifest["shards"]:
            numbers = [entry[count] for count in _COUNTS]
            numbers += [entry["files"][f"{name}.npy"]["bytes"] for name in _ARRAYS]
            if not all(isinstance(number, int) and number > 0 for number in numbers):
                raise ValueError("a count that is not a positive integer")
        if not manifest["shards"] or not isinstance(manifest["vocab_size"], int):
            raise ValueError("no shards or no vocab_size")
        manifest["tokenizer_sha256"][:12]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}); prepare the data anew") from None
    return manifest


def _open_shard(folder: Path, entry: dict[str, Any], vocab_size: int, first_token: int) -> Shard:
    lengths = {
        "tokens": entry["num_tokens"],
        "sentences": entry["num_sentences"] + 1,
        "documents": entry["num_documents"] + 1,
    }
    dtypes = {"tokens": np.dtype(token_dtype(vocab_size)), "sentences": np.dtype("i8"), "documents": np.dtype("i8")}
    arrays = {}
    for name in _ARRAYS:
        path = folder / f"{name}.npy"
        arrays[name] = open_array(path, entry["files"][path.name]["bytes"], dtypes[name], lengths[name], MANIFEST)
    check_offsets(folder / "sentences.npy", arrays["sentences"], entry["num_tokens"])
    check_offsets(folder / "documents.npy", arrays["documents"], entry["num_sentences"])
    return Shard(**arrays, first_token=first_token)


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
