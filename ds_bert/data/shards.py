"""Memory-mapped arrays on disk, their sizes and checksums in a manifest; and a corpus of token ids in such shards.

Mapped arrays keep no file open: a process may have many more of them than open files.

A data folder holds::

    dataset.json            what there is, with sizes and checksums; written last, so a folder with it is complete
    tokenizer/              the tokenizer whose ids these are
    shard-00000/tokens.npy      token ids, uint16 (uint32 from 65,536 tokens on), shape (tokens,)
    shard-00000/sentences.npy   where each sentence begins among the tokens, int64, shape (sentences + 1,)
    shard-00000/documents.npy   where each document begins among the sentences, int64, shape (documents + 1,)

A document never spans two shards. Nothing here is pickled.
"""

import ctypes
import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.tokenizer_files import SENTENCEPIECE, TOKENIZER_JSON
from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.files import file_fingerprint, read_json, write_json

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,  # off_t, on the systems whose C library has 64-bit files throughout
)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def map_array(path: Path) -> np.ndarray:
    """Map a ``.npy`` file, to be read only. The file is closed again; `numpy.memmap` holds it open.

    Raises:
        OSError: the file cannot be opened or mapped.
        ValueError: it is no ``.npy`` file, is cut off, or would have to be unpickled.
    """
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"an array in a format of version {version}")
        shape, is_transposed, dtype = _HEADERS[version](file)
        if dtype.hasobject:
            raise ValueError("an array of Python objects")
        begin, size = file.tell(), math.prod(shape) * dtype.itemsize
        if os.fstat(file.fileno()).st_size < begin + size:
            raise ValueError("the array is cut off")
        mapping = _Mapping(file.fileno(), begin + size)
    mapping.__array_interface__ = {
        "version": 3,
        "data": (mapping.address + begin, True),
        "shape": shape[::-1] if is_transposed else shape,
        "typestr": dtype.str,
    }
    array = np.asarray(mapping)
    return array.T if is_transposed else array


def map_arrays(folder: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Map the arrays that `save_arrays` wrote; raises as `map_array` does."""
    return {name: map_array(folder / f"{name}.npy") for name in names}


def save_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as ``.npy`` files without a manifest: what is damaged of them is made anew; cf. `write_arrays`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


class _Mapping:
    """The first bytes of a file as pages of memory; they are given back when no array uses them any more."""

    __array_interface__: dict[str, Any]

    def __init__(self, descriptor: int, length: int) -> None:
        self.length = length
        self.address = _LIBC.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if self.address == _FAILED:
            self.length = 0
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def __del__(self) -> None:
        if self.length:
            _LIBC.munmap(self.address, self.length)


def shard_name(index: int) -> str:
    """Return the folder name of the ``index``-th shard."""
    return f"shard-{index:05d}"


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """Return the smallest dtype of a token id that this project writes."""
    return np.uint16 if vocab_size < 1 << 16 else np.uint32


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Write a shard's arrays as ``.npy`` files; return what the manifest says of each file: bytes and sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        with open(path, "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": file_fingerprint(path)}
    return files


def open_array(path: Path, num_bytes: int, dtype: np.dtype, length: int, manifest: str) -> np.ndarray:
    """Map one array of a shard, shape ``(length,)``, after looking at its size, dtype and shape.

    Raises:
        UserError: the file is missing, or not as the manifest says.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing, but {path.parent.parent / manifest} lists it; restore it or make it anew")
    if path.stat().st_size != num_bytes:
        raise UserError(
            f"{path}: has {path.stat().st_size} bytes, but {manifest} says {num_bytes}: truncated or changed; "
            f"restore it or make the folder anew"
        )
    try:
        array = map_array(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror or error})") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: no readable .npy file ({error}); restore it or make the folder anew") from None
    if array.dtype != dtype or array.shape != (length,):
        raise UserError(
            f"{path}: holds {array.dtype} of shape {array.shape}, but {manifest} asks for {dtype} of shape ({length},)"
        )
    return array


def check_offsets(path: Path, offsets: np.ndarray, last: int) -> None:
    """Raise `UserError` unless the offsets of a shard's array begin at 0 and end at ``last``."""
    ends = (int(offsets[0]), int(offsets[-1]))
    if ends != (0, last):
        raise UserError(
            f"{path}: offsets run from {ends[0]} to {ends[1]}, but must from 0 to {last}; make the folder anew"
        )


def verify_arrays(folder: Path, shards: list[dict[str, Any]], manifest: str) -> None:
    """Read all arrays of all shards and compare checksums. Raises `UserError` naming the first file that differs."""
    for index, entry in enumerate(shards):
        for name, file in entry["files"].items():
            path = folder / shard_name(index) / name
            if file_fingerprint(path) != file["sha256"]:
                raise UserError(f"{path}: its checksum is not that of {manifest}; restore it or make the folder anew")


def read_manifest(path: Path, format_version: int) -> dict[str, Any]:
    """Read a manifest. Raises `UserError` when it is of another format."""
    manifest = read_json(path)
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != format_version:
        raise UserError(f"{path}: format_version is {version!r}, but this version of ds_bert reads {format_version}")
    return manifest


def tokenizer_of(folder: Path, fingerprint: str, manifest: str) -> Tokenizer:
    """Load the tokenizer of a folder of shards. Raises `UserError` when it is not the one that wrote them."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    if fingerprint not in (tokenizer.fingerprint, _former_fingerprint(folder / "tokenizer" / TOKENIZER_JSON)):
        raise UserError(
            f"{folder / 'tokenizer'}: not the tokenizer of these shards (checksum {tokenizer.fingerprint[:12]}, "
            f"{manifest} says {fingerprint[:12]}); restore it or make the folder anew"
        )
    return tokenizer


def _former_fingerprint(path: Path) -> str | None:
    """Return what stood for a tokenizer in manifests before `Tokenizer.fingerprint` covered all of it; None for none.

    Shards that were written then hold the same ids as now, unless their text spoke of special tokens.
    """
    if not path.is_file():
        return None
    state = read_json(path)
    model, added = state["model"], {token["id"]: token["content"] for token in state["added_tokens"]}
    is_unigram = isinstance(model["vocab"], list)
    vocabulary = dict(enumerate(piece for piece, _ in model["vocab"])) if is_unigram else {}
    vocabulary |= {} if is_unigram else {place: token for token, place in model["vocab"].items()}
    vocabulary |= added
    decisive = [[vocabulary.get(place, "") for place in range(max(vocabulary) + 1)], state["normalizer"]]
    if is_unigram:
        scores = [min(score, -100.0) if piece in SENTENCEPIECE else score for piece, score in model["vocab"]]
        extra = [token for token in added.values() if token not in SENTENCEPIECE]
        decisive += [np.array(scores).astype(np.float32).tolist(), state["pre_tokenizer"], extra]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


FORMAT_VERSION = 1
MANIFEST = "dataset.json"
_ARRAYS = ("tokens", "sentences", "documents")
_COUNTED_AT_ONCE = 1 << 24
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
        manifest = _read_corpus_manifest(folder)
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
    def unigram_entropy(self) -> float | None:
        """Entropy of the tokens in nats, see `unigram_entropy`; None in folders of versions that did not count it."""
        about = self._manifest.get("about")
        known = about.get("unigram_entropy") if isinstance(about, dict) else None
        return known if isinstance(known, float) else None

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


def unigram_entropy(files: Iterable[Path], tokenizer: Tokenizer) -> float:
    """Entropy of the tokens that can be masked, in nats: the loss of a model that knows how frequent they are, no more.

    Args:
        files: ``tokens.npy`` of all shards.
        tokenizer: special tokens, [UNK] among them, are not counted.
    """
    counts = np.zeros(tokenizer.size, dtype=np.int64)
    for tokens in map(map_array, files):
        for first in range(0, len(tokens), _COUNTED_AT_ONCE):
            counts += np.bincount(tokens[first : first + _COUNTED_AT_ONCE], minlength=tokenizer.size)
    counts = counts[~tokenizer.is_special]
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log(shares)).sum())


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


def _read_corpus_manifest(folder: Path) -> dict[str, Any]:
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
