"""From text to a data folder: read, tokenise in parallel, write shards, resume after an interruption."""

import hashlib
import itertools
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ds_bert.data.corpus import (
    DEFAULT_READING,
    BadRecord,
    BadRecords,
    RawDocument,
    Reading,
    describe_formats,
    find_files,
    read_documents,
)
from ds_bert.data.encoding import NumberedDocument, encode_documents, train_vocabulary
from ds_bert.data.prepare_state import (
    TRAIN,
    VALIDATION,
    CoveredText,
    PartWriter,
    PrepareState,
    TextChanged,
    files_fingerprint,
)
from ds_bert.data.python_docs import python_docs
from ds_bert.data.sampler import random_bits, uniform
from ds_bert.data.shards import MANIFEST, shard_name, unigram_entropy, write_manifest
from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.files import read_json, write_json

BAD_RECORDS = "bad_records.json"
_VALIDATION_STREAM = 0x5EED  # any constant: which documents are held out is the same for all
_DRAWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class PrepareSettings:
    """What `ds-bert prepare` is told; see its help for the fields."""

    output_dir: Path
    input: tuple[str, ...] = ()
    python_docs: bool = False
    tokenizer_name: str | None = None
    train_vocab: int | None = None
    reading: Reading = DEFAULT_READING
    num_workers: int = 1
    shard_tokens: int = 1 << 24
    validation_share: float = 0.0
    skip_bad_records: int = 0


@dataclass(frozen=True)
class PartSummary:
    """Counts of one finished data folder."""

    folder: Path
    num_documents: int
    num_sentences: int
    num_tokens: int
    num_unknown: int
    num_empty_documents: int
    vocab_size: int
    unk_token: str

    @property
    def unknown_share(self) -> float:
        """The share of tokens that are unknown ones."""
        return self.num_unknown / self.num_tokens


def prepare(settings: PrepareSettings, say: Callable[[str], None] = lambda text: None) -> list[PartSummary]:
    """Write the data folder, or finish one that was begun with the same settings.

    What a file's format is taken to be is told to ``say``, in sentences.

    The result depends on the texts and settings only, not on the number of workers or on interruptions. Where the text
    was changed since, shards are kept up to the first whose own text differs.

    Returns:
        The summary of the training data and, with a validation share, that of the validation data.

    Raises:
        UserError: a setting or an input is wrong, or the output folder is not empty and not this run's.
    """
    _refuse_wrong_settings(settings)
    corpus = _Corpus(settings)
    if settings.reading.format == "auto":
        for sentence in describe_formats(corpus.files):
            say(sentence)
    given = load_tokenizer(settings.tokenizer_name) if settings.tokenizer_name else None
    state = PrepareState.start_or_resume(settings.output_dir, _decisive(settings, corpus, given))
    try:
        return _prepare(settings, corpus, state, given)
    except UserError:
        state.withdraw()
        raise


def read_bad_records(folder: Path) -> list[BadRecord]:
    """Return the records that were passed over when a data folder was made."""
    path = folder / BAD_RECORDS
    return [BadRecord(**record) for record in read_json(path)] if path.is_file() else []


def _prepare(
    settings: PrepareSettings, corpus: "_Corpus", state: PrepareState, given: Tokenizer | None
) -> list[PartSummary]:
    parts = [TRAIN, VALIDATION] if settings.validation_share else [TRAIN]
    if (settings.output_dir / MANIFEST).is_file():
        if not state.is_same_input and corpus.read_through() != state.texts.get("finished"):
            raise UserError(f"{settings.output_dir}: is finished, and of another text; name a new --output_dir")
        tokenizer = load_tokenizer(settings.output_dir / "tokenizer")
    else:
        tokenizer = _saved_tokenizer(settings, corpus, state, given)
        empty_at_end = _write_shards(settings, corpus, state, parts, tokenizer)
        _refuse_empty_parts(settings, state, parts)
        state.texts["finished"] = corpus.text_sha256
        if corpus.bad.found:
            write_json(settings.output_dir / BAD_RECORDS, [record._asdict() for record in corpus.bad.found])
        for part in reversed(parts):  # the training data's manifest comes last: it says that all is complete
            _complete(state, part, tokenizer, empty_at_end[part])
    return [_summarise(state, part, tokenizer) for part in parts]


class _Corpus:
    """The chosen source of documents, which can be read more than once.

    Attributes:
        files: what is read; empty for Python's documentation.
        num_bytes: of all files; None where it is not known how much text that is.
        bad: the bad records that the last reading has passed over.
        text_sha256: of all documents, once a reading has come to its end.
    """

    def __init__(self, settings: PrepareSettings) -> None:
        self._reading = settings.reading
        self._most_bad = settings.skip_bad_records
        self.files = [] if settings.python_docs else find_files(settings.input, settings.output_dir)
        plain = not any(path.suffix.lower() == ".gz" for path in self.files)
        self.num_bytes = sum(path.stat().st_size for path in self.files) or None if plain else None
        self.bad = BadRecords(self._most_bad)
        self.text_sha256 = ""

    def documents(self) -> Iterator[tuple[RawDocument, bytes]]:
        """Read from the beginning: yield each document and the hash of its text."""
        self.bad, self.text_sha256 = BadRecords(self._most_bad), ""
        whole = hashlib.sha256()
        for document in read_documents(self.files, self._reading, self.bad) if self.files else python_docs():
            lines = "\0".join([str(document.is_prose), *document.lines])
            digest = hashlib.sha256(lines.encode("utf-8", "surrogatepass")).digest()
            whole.update(digest)
            yield document, digest
        self.text_sha256 = whole.hexdigest()

    def read_through(self) -> str:
        """Read everything and return the hash of it."""
        with _progress_bar(self, "compare") as bar:
            for document, _ in self.documents():
                bar.update(document.num_bytes)
        return self.text_sha256

    @property
    def fingerprint(self) -> str:
        return (
            files_fingerprint(self.files) if self.files else f"standard library of Python {platform.python_version()}"
        )


def _refuse_wrong_settings(settings: PrepareSettings) -> None:
    if bool(settings.input) == settings.python_docs:
        raise UserError("prepare needs either --input or --python_docs as its text")
    if (settings.tokenizer_name is None) == (settings.train_vocab is None):
        raise UserError("prepare needs either --tokenizer_name or --train_vocab for its vocabulary")
    if not 0.0 <= settings.validation_share < 1.0:
        raise UserError(f"--validation_share {settings.validation_share}: must be at least 0 and below 1")
    if settings.num_workers < 1 or settings.shard_tokens < 1:
        raise UserError("--num_workers and --shard_tokens must be at least 1")
    if settings.skip_bad_records < 0:
        raise UserError(f"--skip_bad_records {settings.skip_bad_records}: must be at least 0")


def _decisive(settings: PrepareSettings, corpus: _Corpus, given: Tokenizer | None) -> dict[str, Any]:
    """Return all that decides the result, to compare when resuming."""
    return {
        "input": corpus.fingerprint,
        "format": settings.reading.format,
        "text_key": settings.reading.text_key,
        "document_end": settings.reading.document_end,
        "tokenizer": given.fingerprint[:16] if given else f"{settings.train_vocab} tokens trained",
        "shard_tokens": settings.shard_tokens,
        "validation_share": settings.validation_share,
    }


def _saved_tokenizer(
    settings: PrepareSettings, corpus: _Corpus, state: PrepareState, given: Tokenizer | None
) -> Tokenizer:
    folder = settings.output_dir / "tokenizer"
    if (folder / "tokenizer_config.json").is_file():  # the last file that `save` writes
        if given or corpus.read_through() == state.texts.get("vocabulary"):
            return load_tokenizer(folder)
        for part in state.shards:  # their ids are those of a vocabulary of another text
            state.forget(part)
    if given is None:
        assert settings.train_vocab is not None
        given = train_vocabulary(lambda: _with_progress(corpus, "vocabulary"), settings.train_vocab)
        state.texts["vocabulary"] = corpus.text_sha256
        state.save()
    if settings.validation_share:
        given.save(settings.output_dir / VALIDATION / "tokenizer")
    given.save(folder)  # last: with it, all tokenizers are there
    return load_tokenizer(folder)


def _with_progress(corpus: _Corpus, title: str) -> Iterator[list[str]]:
    with _progress_bar(corpus, title) as bar:
        for document, _ in corpus.documents():
            bar.update(document.num_bytes)
            yield document.sentences()


def _write_shards(
    settings: PrepareSettings, corpus: _Corpus, state: PrepareState, parts: list[str], tokenizer: Tokenizer
) -> dict[str, int]:
    """Tokenise all that no finished shard covers; return the empty documents after each part's last shard."""
    while True:
        try:
            return _write_missing(settings, corpus, state, parts, tokenizer)
        except TextChanged as changed:
            state.forget(changed.part, changed.shard)
        except UserError as error:
            finished = sum(map(len, state.shards.values()))
            kept = f"; {finished} finished shards are kept: mend that, and the same command goes on"
            raise UserError(f"{error}{kept if finished else ''}") from None


def _write_missing(
    settings: PrepareSettings, corpus: _Corpus, state: PrepareState, parts: list[str], tokenizer: Tokenizer
) -> dict[str, int]:
    writers = {
        part: PartWriter(state.part_folder(part), state.shards[part], settings.shard_tokens, state.save)
        for part in parts
    }
    place_of: dict[int, tuple[str, bytes]] = {}  # of a document on its way: its part, and the hash of its text
    with _progress_bar(corpus, "tokenise") as bar:

        def missing() -> Iterator[NumberedDocument]:
            covered = {part: CoveredText(part, state.shards[part]) for part in parts}
            held_out = _held_out(settings.validation_share)
            for number, ((document, digest), is_held_out) in enumerate(zip(corpus.documents(), held_out, strict=False)):
                part = VALIDATION if is_held_out else TRAIN
                if covered[part].covers(number, digest):
                    bar.update(document.num_bytes)
                else:
                    place_of[number] = part, digest
                    yield NumberedDocument(number, document)
            for text in covered.values():
                text.finish()

        for chunk in encode_documents(missing(), tokenizer.for_corpora, settings.num_workers):
            for encoded in chunk.documents():
                part, digest = place_of.pop(encoded.number)
                writers[part].add(encoded, digest)
            bar.update(chunk.num_bytes)
    return {part: writer.finish() for part, writer in writers.items()}


def _held_out(share: float) -> Iterator[bool]:
    """Yield for document 0, 1, … whether it belongs to the validation data."""
    for first in itertools.count(0, _DRAWS_AT_A_TIME):
        numbers = np.arange(first, first + _DRAWS_AT_A_TIME)
        yield from (uniform(random_bits(_VALIDATION_STREAM, numbers)) < share).tolist()


def _refuse_empty_parts(settings: PrepareSettings, state: PrepareState, parts: list[str]) -> None:
    if not any(state.shards[part] for part in parts):
        raise UserError(f"{', '.join(settings.input) or '--python_docs'}: no document with a token in it")
    for part in parts:
        if not state.shards[part]:
            raise UserError(
                f"--validation_share {settings.validation_share}: leaves no document for the {part} data; "
                f"choose another share and a new --output_dir"
            )


def _complete(state: PrepareState, part: str, tokenizer: Tokenizer, empty_at_end: int) -> None:
    entries = state.shards[part]
    entries[-1]["num_empty_documents"] += empty_at_end
    state.save()
    about: dict[str, Any] = {
        total: sum(entry[total] for entry in entries)
        for total in ("num_documents", "num_sentences", "num_tokens", "num_unknown", "num_empty_documents")
    }
    folder = state.part_folder(part)
    files = [folder / shard_name(index) / "tokens.npy" for index in range(len(entries))]
    write_manifest(folder, tokenizer, entries, about | {"unigram_entropy": unigram_entropy(files, tokenizer)})


def _summarise(state: PrepareState, part: str, tokenizer: Tokenizer) -> PartSummary:
    counts = ("num_documents", "num_sentences", "num_tokens", "num_unknown", "num_empty_documents")
    totals = {count: sum(entry[count] for entry in state.shards[part]) for count in counts}
    unk_token = tokenizer.tokens[tokenizer.unk_id]
    return PartSummary(folder=state.part_folder(part), vocab_size=tokenizer.size, unk_token=unk_token, **totals)


def _progress_bar(corpus: _Corpus, title: str) -> Any:
    return tqdm(total=corpus.num_bytes, desc=title, unit="B", unit_scale=True, leave=False, disable=None)
