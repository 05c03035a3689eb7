"""Sentences whose words have tags: read from CoNLL's columns or JSON lines, encoded, and written again."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ds_bert.data.features import IGNORED, Features, make_features
from ds_bert.data.tables import open_table, text_lines
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import suffix_of, write_atomically

OUTSIDE = "O"
_JSON = (".json", ".jsonl", ".ndjson")
_DOCUMENT = "-DOCSTART-"
# Words may hold blanks, of every kind, where tabs separate them. A match begins where a run of blanks does: beginning
# again at each of n blanks that no tab follows would take n² steps.
_SEPARATORS = (r"(?<! ) *\t *", r"[ \t]+")
_USUAL_TAG = re.compile(r"O|[BIESLUM](-.+)?")

Line = tuple[int, str]
"""A line's number in the file, from 1, and its text."""


@dataclass(frozen=True)
class Sentence:
    """A sentence.

    Args:
        words: in order; one may be empty, or of characters that a tokenizer drops.
        tags: one for each word; none where they are not known.
        where: its file and first line, for messages.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    where: str


def read_sentences(path: Path, with_tags: bool = True) -> list[Sentence]:
    """Read a file of CoNLL's columns, see `read_conll`, or JSON lines of ``{"words": […], "tags": […]}``.

    Args:
        path: JSON lines where its name ends in .json, .jsonl or .ndjson.
        with_tags: whether tags are read.

    Raises:
        UserError: the file is not of this layout, or has no sentence.
    """
    if suffix_of(path) not in _JSON:
        return read_conll(path, with_tags=with_tags)
    table, sentences = open_table(path), []
    for number, (words, *rest) in table.read(["words", "tags"] if with_tags else ["words"]):
        words, tags = (cell if isinstance(cell, list) else [] for cell in (words, *(rest or [[]])))
        if not words or (with_tags and len(tags) != len(words)):
            raise UserError(
                f"{table.where(number)}: {len(tags)} tags for {len(words)} words; needed is a list of words, and one "
                "tag for each"
            )
        sentences.append(Sentence((*map(str, words),), (*map(str, tags),), table.where(number)))
    return sentences


def read_conll(path: Path, word_column: int = 0, tag_column: int = -1, with_tags: bool = True) -> list[Sentence]:
    r"""Read words in lines of columns, with an empty line after each sentence.

    Columns are separated by tabs or, where these do not cut every line in as many columns, by blanks and tabs. Lines
    may end with "\r\n"; empty lines may stand anywhere. Lines of -DOCSTART- are left out, and comments: lines that
    begin with "#" and do not have as many columns as the others, or "# word" where no tag is like the word. "#" itself,
    and hashtags, are words.

    Args:
        path: UTF-8 text, with or without a byte order mark.
        word_column, tag_column: which columns to take, from 0, or from -1 backwards.
        with_tags: whether tags are read; where not, one column is enough.

    Raises:
        UserError: a line has more or fewer columns than the others, or there is no sentence.
    """
    lines = [
        (number, line.lstrip("\ufeff").lstrip(" ").rstrip(" \t\r")) for number, line in enumerate(text_lines(path), 1)
    ]
    plain = [(number, line) for number, line in lines if line and not line.startswith(("#", _DOCUMENT))]
    separator, width = _columns(path, plain, max(2, word_column + 1, tag_column + 1) if with_tags else word_column + 1)
    tags = {re.split(separator, line)[tag_column] for _, line in plain}
    sentences, words, begin = [], list[list[str]](), 0

    def end_sentence() -> None:
        if words:
            marks = tuple(cells[tag_column] for cells in words) if with_tags else ()
            sentences.append(Sentence(tuple(cells[word_column] for cells in words), marks, f"{path}: line {begin}"))
            words.clear()

    for number, line in lines:
        if not line or line.startswith(_DOCUMENT):
            end_sentence()
            continue
        cells = re.split(separator, line)
        if line.startswith("#") and (len(cells) != width or _is_remark(line, cells, tags, tag_column)):
            if words and not line.startswith("# "):
                raise _wrong_columns(path, number, len(cells), width)
            continue
        begin = begin if words else number
        words.append(cells)
    end_sentence()
    if not sentences:
        raise UserError(
            f"{path}: no sentence; needed are lines of a word and its tag, and an empty line after each one"
        )
    return sentences


def _columns(path: Path, lines: Sequence[Line], least: int) -> tuple[str, int]:
    """The separator that cuts every line in as many columns, and their number."""
    for separator in _SEPARATORS:
        counts = [len(re.split(separator, line)) for _, line in lines] or [least]
        if min(counts) == max(counts) >= (least if separator == _SEPARATORS[-1] else max(least, 2)):
            return separator, counts[0]
    if counts[0] < least:
        raise UserError(
            f"{path}: line {lines[0][0]}: {counts[0]} column; needed are at least {least}: a word and its tag"
        )
    place = next(place for place, count in enumerate(counts) if count != counts[0])
    raise _wrong_columns(path, lines[place][0], counts[place], counts[0])


def _wrong_columns(path: Path, number: int, found: int, needed: int) -> UserError:
    return UserError(f"{path}: line {number}: {found} columns, but the lines before have {needed}; needed is the same")


def _is_remark(line: str, cells: Sequence[str], tags: Collection[str], tag_column: int) -> bool:
    """Whether a line of as many columns as the others, which begins with "#", is a comment and not that word."""
    if cells[0] != "#" or "\t" in line or len(cells) == 1:
        return False
    return cells[tag_column] not in tags and not _USUAL_TAG.fullmatch(cells[tag_column])


@dataclass(frozen=True)
class EncodedSentences:
    """Sentences as examples.

    Args:
        features: each sentence as ``[CLS] words [SEP]``; where tags are known, the token column ``labels`` has a word's
            tag at its first token, `IGNORED` elsewhere.
        places: of each sentence, for each word where its first token is in the sequence; -1 where it has none there.
    """

    features: Features
    places: list[np.ndarray]

    def tags(self, logits: Sequence[np.ndarray], names: Sequence[str]) -> Iterator[list[str]]:
        """Name each word's best tag, sentence by sentence; words without a token are `OUTSIDE` of everything.

        Args:
            logits: of each sentence, (T, tags).
            names: of the tags; where `OUTSIDE` is not among them, words without a token have the first.
        """
        missing = names.index(OUTSIDE) if OUTSIDE in names else 0
        for places, scores in zip(self.places, logits, strict=True):
            best = np.where(places < 0, missing, scores.argmax(-1)[places])
            yield [names[tag] for tag in best.tolist()]


def encode_sentences(
    sentences: Sequence[Sentence], names: Sequence[str], tokenizer: Tokenizer, max_seq_length: int
) -> EncodedSentences:
    """Encode sentences; what is longer than ``max_seq_length`` is cut.

    Words that give no tokens (a variation selector by itself, U+FE0F) or that are cut off are not trained on; a note of
    the features counts them. They keep their place among the words.

    Args:
        sentences: all with tags, or all without.
        names: of the tags, in the order of their ids.
        tokenizer: of the model.
        max_seq_length: tokens of a sequence at most, [CLS] and [SEP] included.

    Raises:
        UserError: a tag is not among ``names``.
    """
    ids = {name: number for number, name in enumerate(names)}
    rows, labels, all_places, empty, cut = [], [], [], 0, 0
    for sentence in sentences:
        pieces, lengths = tokenizer.encode(sentence.words)
        places = np.cumsum(lengths) - lengths + 1
        is_cut = places > max_seq_length - 2
        empty, cut = empty + int((lengths == 0).sum()), cut + int((is_cut & (lengths > 0)).sum())
        places = np.where((lengths == 0) | is_cut, -1, places)
        rows.append([tokenizer.cls_id, *pieces[: max_seq_length - 2].tolist(), tokenizer.sep_id])
        all_places.append(places)
        marks = np.full(len(rows[-1]), IGNORED, dtype=np.int64)
        if sentence.tags:
            marks[places[places >= 0]] = _numbers(sentence, ids)[places >= 0]
        labels.append(marks)
    has_tags = any(sentence.tags for sentence in sentences)
    columns = {"labels": np.concatenate(labels)} if has_tags else {}
    features = make_features(rows, [*map(len, rows)], tokenizer.pad_id, token_columns=columns)
    notes = [f"{count} words {what}" for count, what in ((empty, "give no tokens"), (cut, "are cut off")) if count]
    if notes:
        origin = sentences[0].where.rpartition(": ")[0]
        features = replace(features, notes=(f"{origin}: {' and '.join(notes)}; they are not trained on",))
    return EncodedSentences(features, all_places)


def _numbers(sentence: Sentence, ids: dict[str, int]) -> np.ndarray:
    unknown = next((tag for tag in sentence.tags if tag not in ids), None)
    if unknown is not None:
        raise UserError(f"{sentence.where}: the tag {unknown!r} in this sentence; needs one of {', '.join(ids)}")
    return np.array([ids[tag] for tag in sentence.tags], dtype=np.int64)


def write_sentences(path: Path, sentences: Sequence[Sentence], tags: Sequence[Sequence[str]]) -> None:
    """Write CoNLL's columns, separated by tabs: word, its known tag if there is one, and what ``tags`` says."""
    lines = []
    for sentence, found in zip(sentences, tags, strict=True):
        columns = [sentence.words, *([sentence.tags] if sentence.tags else []), found]
        lines += ["\t".join(cells) + "\n" for cells in zip(*columns, strict=True)] + ["\n"]
    write_atomically(path, "".join(lines))
