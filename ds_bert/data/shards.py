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
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.files import read_json, write_json

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
        tokenizer = load_tokenizer(self.folder / "tokenizer")
        if tokenizer.fingerprint != self._manifest["tokenizer_sha256"]:
            raise UserError(
                f"{self.folder / 'tokenizer'}: not the tokenizer of these shards (checksum "
                f"{tokenizer.fingerprint[:12]}, {MANIFEST} says {self._manifest['tokenizer_sha256'][:12]}); "
                f"restore the folder or prepare the data anew"
            )
        return tokenizer

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that tells this data from other data: of the shards' checksums and the tokenizer's."""
        decisive = [self._manifest["tokenizer_sha256"], [shard["files"] for shard in self._manifest["shards"]]]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def verify(self) -> None:
        """Read everything and compare checksums. Raises `UserError` naming the first file that differs."""
        for index, entry in enumerate(self._manifest["shards"]):
            for name in _ARRAYS:
                path = self.folder / shard_name(index) / f"{name}.npy"
                found = _sha256(path)
                if found != entry["files"][path.name]["sha256"]:
                    raise UserError(f"{path}: its checksum is not that of {MANIFEST}; restore it or prepare anew")
            shard = self.shards[index]
            for name in ("sentences", "documents"):
                if np.any(np.diff(getattr(shard, name)) < 1):
                    raise UserError(f"{self.folder / shard_name(index) / name}.npy: its offsets do not increase")


def shard_name(index: int) -> str:
    """Return the folder name of the ``index``-th shard."""
    return f"shard-{index:05d}"


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """Return the smallest dtype of a token id that this project writes."""
    return np.uint16 if vocab_size < 1 << 16 else np.uint32


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
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"tokens": tokens, "sentences": _offsets(sentence_lengths), "documents": _offsets(document_lengths)}
    files = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        with open(path, "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    counts = (len(tokens), len(sentence_lengths), len(document_lengths))
    return {**dict(zip(_COUNTS, counts, strict=True)), "files": files}


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


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        found = "an unfinished data folder" if (folder / "prepare.json").is_file() else "no data folder"
        raise UserError(
            f"{folder}: {found}: it has no {MANIFEST}; make it with `ds-bert prepare --output_dir {folder}`"
        )
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        version = manifest.get("format_version") if isinstance(manifest, dict) else None
        raise UserError(f"{path}: format_version is {version!r}, but this version of ds_bert reads {FORMAT_VERSION}")
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
    arrays = {
        name: _open_array(folder / f"{name}.npy", entry["files"][f"{name}.npy"]["bytes"], dtypes[name], lengths[name])
        for name in _ARRAYS
    }
    for name, last in (("sentences", entry["num_tokens"]), ("documents", entry["num_sentences"])):
        ends = (int(arrays[name][0]), int(arrays[name][-1]))
        if ends != (0, last):
            raise UserError(
                f"{folder / name}.npy: offsets run from {ends[0]} to {ends[1]}, but must from 0 to {last}; prepare anew"
            )
    return Shard(**arrays, first_token=first_token)


def _open_array(path: Path, num_bytes: int, dtype: np.dtype, length: int) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: missing, but {path.parent.parent / MANIFEST} lists it; restore it or prepare anew")
    if path.stat().st_size != num_bytes:
        raise UserError(
            f"{path}: has {path.stat().st_size} bytes, but {MANIFEST} says {num_bytes}: truncated or changed; "
            f"restore it or prepare the data anew"
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: no readable .npy file ({error}); restore it or prepare the data anew") from None
    if array.dtype != dtype or array.shape != (length,):
        raise UserError(
            f"{path}: holds {array.dtype} of shape {array.shape}, but {MANIFEST} asks for {dtype} of shape ({length},)"
        )
    return np.asarray(array)  # still mapped, without the cost of np.memmap at every slice
