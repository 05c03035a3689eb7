"""What an interrupted `ds-bert prepare` needs to go on: its settings, the finished shards, what text they are of."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.encoding import EncodedDocument
from ds_bert.data.shards import shard_name, write_shard
from ds_bert.errors import UserError
from ds_bert.files import read_json, write_json

STATE = "prepare.json"
TRAIN, VALIDATION = "train", "validation"


class PrepareState:
    """The file prepare.json of an output folder.

    Attributes:
        folder: the output folder.
        shards: of `TRAIN` and `VALIDATION`, the entries of the finished shards; each has the hash of its text.
        texts: hashes of the whole text: that the vocabulary was trained on, and that the finished folder is made of.
        is_same_input: whether the files have the names, sizes and times of change that they had at the start.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], shards: dict[str, list[dict[str, Any]]]) -> None:
        self.folder = folder
        self.shards = shards
        self.texts: dict[str, str] = {}
        self.is_same_input = True
        self._settings = settings
        self._begun_in = ""

    @classmethod
    def start_or_resume(cls, folder: Path, settings: dict[str, Any]) -> "PrepareState":
        """Claim an empty folder, or go on in one that was started with the same settings; the input may differ.

        Raises:
            UserError: the folder holds something else, or was started with other settings, or lost a shard.
        """
        path = folder / STATE
        if path.is_file():
            return cls._resume(folder, settings)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: not empty and not begun by `ds-bert prepare`; name a new --output_dir")
        state = cls(folder, settings, {TRAIN: [], VALIDATION: []})
        state._begun_in = "empty" if folder.is_dir() else "new"
        folder.mkdir(parents=True, exist_ok=True)
        state.save()
        return state

    def withdraw(self) -> None:
        """Leave no trace of a run that was refused before its first shard was finished: the next one starts afresh."""
        if self._begun_in and not any(self.shards.values()):
            shutil.rmtree(self.folder)
            if self._begun_in == "empty":
                self.folder.mkdir()

    @classmethod
    def _resume(cls, folder: Path, settings: dict[str, Any]) -> "PrepareState":
        path = folder / STATE
        stored = read_json(path)
        try:
            before, shards = stored["settings"], {part: stored["shards"][part] for part in (TRAIN, VALIDATION)}
            changed = [key for key in settings if before.get(key) != settings[key] and key != "input"]
            state = cls(folder, settings, shards)
            state.texts = dict(stored.get("texts", {}))
            state.is_same_input = before["input"] == settings["input"]
            for part, entries in shards.items():
                for index, entry in enumerate(entries):
                    _refuse_lost_shard(state.part_folder(part) / shard_name(index), entry)
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: damaged, so the run cannot be resumed; name a new --output_dir") from None
        if changed:
            what = ", ".join(f"{key} (was {before.get(key)!r}, now {settings[key]!r})" for key in changed)
            raise UserError(f"{folder}: begun with other settings: {what}; repeat them or name a new --output_dir")
        state._sweep()
        return state

    def _sweep(self) -> None:
        """Remove the half-written JSON files that a killed run left behind."""
        for part in (TRAIN, VALIDATION):
            for leftover in self.part_folder(part).glob(".*.json.*.tmp"):
                leftover.unlink()

    def part_folder(self, part: str) -> Path:
        """Return the data folder of a part: the output folder, or its subfolder ``validation``."""
        return self.folder if part == TRAIN else self.folder / VALIDATION

    def save(self) -> None:
        """Write the file, atomically."""
        write_json(self.folder / STATE, {"settings": self._settings, "shards": self.shards, "texts": self.texts})

    def forget(self, part: str, first: int = 0) -> None:
        """Take back the part's shards from number ``first`` on: they are of another text."""
        count = len(self.shards[part])
        del self.shards[part][first:]
        self.save()
        for index in range(first, count):
            shutil.rmtree(self.part_folder(part) / shard_name(index), ignore_errors=True)


class TextChanged(Exception):
    """A finished shard of a part is not of the text that is there now."""

    def __init__(self, part: str, shard: int) -> None:
        super().__init__(part, shard)
        self.part, self.shard = part, shard


class CoveredText:
    """Compares the documents that a part's finished shards were made of with those that are there now.

    Args:
        part: for `TextChanged`.
        entries: of the finished shards.
    """

    def __init__(self, part: str, entries: list[dict[str, Any]]) -> None:
        self._part = part
        self._entries = list(entries)
        self._shard = 0
        self._text = hashlib.sha256()

    def covers(self, number: int, digest: bytes) -> bool:
        """Say whether the part's next document is in a finished shard. Raises `TextChanged` at the end of another."""
        if self._shard == len(self._entries):
            return False
        entry = self._entries[self._shard]
        self._text.update(digest)
        if number + 1 == entry["next_document"]:
            if self._text.hexdigest() != entry.get("text_sha256"):
                raise TextChanged(self._part, self._shard)
            self._shard += 1
            self._text = hashlib.sha256()
        return True

    def finish(self) -> None:
        """Raise `TextChanged` where the text ended before the last shard did."""
        if self._shard < len(self._entries):
            raise TextChanged(self._part, self._shard)


class PartWriter:
    """Gathers one part's documents and writes a shard whenever enough tokens have come together."""

    def __init__(self, folder: Path, shards: list[dict[str, Any]], shard_tokens: int, save: Callable[[], None]) -> None:
        """Append to ``shards``, the entries of the shards in ``folder``, and call ``save`` after each."""
        self._folder = folder
        self._shards = shards
        self._shard_tokens = shard_tokens
        self._save = save
        self._clear()

    def _clear(self) -> None:
        self._tokens: list[np.ndarray] = []
        self._sentence_lengths: list[np.ndarray] = []
        self._num_tokens = self._num_unknown = self._num_empty = self._next_document = 0
        self._text = hashlib.sha256()

    def add(self, document: EncodedDocument, digest: bytes) -> None:
        """Take the next document and the hash of its text; one without a token is only counted."""
        self._next_document = document.number + 1
        self._text.update(digest)
        if not len(document.tokens):
            self._num_empty += 1
            return
        self._tokens.append(document.tokens.copy())  # a view would keep its whole chunk in memory
        self._sentence_lengths.append(document.sentence_lengths)
        self._num_tokens += len(document.tokens)
        self._num_unknown += document.num_unknown
        if self._num_tokens >= self._shard_tokens:
            self._write()

    def finish(self) -> int:
        """Write what is left and return how many empty documents came after the last one with a token."""
        if self._tokens:
            self._write()
        return self._num_empty

    def _write(self) -> None:
        entry = write_shard(
            self._folder / shard_name(len(self._shards)),
            np.concatenate(self._tokens),
            np.concatenate(self._sentence_lengths),
            np.array([len(lengths) for lengths in self._sentence_lengths]),
        )
        entry["num_unknown"] = self._num_unknown
        entry["num_empty_documents"] = self._num_empty
        entry["next_document"] = self._next_document
        entry["text_sha256"] = self._text.hexdigest()
        self._shards.append(entry)
        self._save()
        self._clear()


def files_fingerprint(files: list[Path]) -> str:
    """Return a hash of the files' paths, sizes and times of change: where it is the same, nobody has touched them."""
    facts = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _refuse_lost_shard(folder: Path, entry: dict[str, Any]) -> None:
    for name, file in entry["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            raise UserError(f"{path}: missing or truncated, though {STATE} lists it; name a new --output_dir")
