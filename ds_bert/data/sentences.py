"""Cutting prose into sentences, by punctuation and what follows it."""

import re
from collections.abc import Iterator

# An end of sentence: closing punctuation, perhaps quotes or brackets (WikiText sets them apart by a space), a space.
# Chinese and Japanese full stops need no space. The lookbehind lets a match begin only where a run of signs does: where
# no space follows, as in "......7", beginning again at each of n signs would take n² steps. The lookahead says once
# more what a match begins with, so that all else is passed over fast.
_CANDIDATE = re.compile(
    r"(?=[.!?…。！？])(?:((?<![.!?…])[.!?…]+(?: ?[\"'”’)\]]+)?)\s+|([。！？]+[」』”’）]*)\s*)",
)
_OPENING = "\"'“‘([«¿¡"
_ABBREVIATIONS = re.compile(
    "mr|mrs|ms|dr|prof|rev|hon|gen|col|lt|sgt|capt|gov|sen|rep|st|mt|vs|jr|sr|co|ltd|nos?|vol|fig|eq|ca|cf|al|approx"
    "|dept|univ|eds?|pp?|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec",
    re.IGNORECASE,
)


def split_sentences(paragraph: str) -> list[str]:
    """Split a paragraph into its sentences, stripped, none empty; the text itself is kept whole."""
    sentences = []
    start = 0
    for end, next_start in _boundaries(paragraph):
        sentence = paragraph[start:end].strip()
        if sentence:
            sentences.append(sentence)
        start = next_start
    rest = paragraph[start:].strip()
    return [*sentences, rest] if rest else sentences


def _boundaries(paragraph: str) -> Iterator[tuple[int, int]]:
    for match in _CANDIDATE.finditer(paragraph):
        if match.group(2) is not None:
            yield match.end(2), match.end()
        elif _opens_sentence(paragraph, match.end()) and not _is_abbreviation(paragraph, match):
            yield match.end(1), match.end()


def _opens_sentence(paragraph: str, place: int) -> bool:
    rest = paragraph[place : place + 3].lstrip(_OPENING + " ")
    return bool(rest) and (rest[0].isupper() or rest[0].isdigit() or (not rest[0].isascii() and not rest[0].islower()))


def _is_abbreviation(paragraph: str, match: re.Match[str]) -> bool:
    """Say whether the full stop belongs to the word before it: "Dr.", "U.S.", the initial in "J. Smith"."""
    if match.group(1) != ".":
        return False
    word = paragraph[max(0, match.start() - 20) : match.start()]
    if not word or word[-1].isspace():
        return False
    word = re.split(r"[\s(\[\"'“‘]", word)[-1]
    return bool(_ABBREVIATIONS.fullmatch(word)) or "." in word or (len(word) == 1 and word.isupper())
