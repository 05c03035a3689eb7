"""Questions and contexts as token sequences: contexts too long for one are cut into overlapping windows."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ds_bert.data.features import IGNORED, Features, count_of
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.tasks.squad.reading import Answer, Question, SquadFile, find_answer

_WORD_START = "▁"  # SentencePiece's
_NO_ANSWER, _UNKNOWN = -1, -2  # in the place of an answer's tokens
_AT_ONCE = 1024  # texts that are tokenised before their tokens are packed away


@dataclass(frozen=True)
class WindowSizes:
    """Sizes in tokens.

    Args:
        max_seq_length: of a whole sequence, ``[CLS] question [SEP] window [SEP]``.
        doc_stride: from the beginning of one window to that of the next, at most; never more than a window.
        max_query_length: of a question; the rest is cut off.

    Raises:
        UserError: a size is below 1, or the longest question leaves no room for a window.
    """

    max_seq_length: int = 384
    doc_stride: int = 128
    max_query_length: int = 64

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if size < 1:
                raise UserError(f"--{name} {size}: at least 1 is needed")
        if self.max_seq_length < self.max_query_length + 4:
            raise UserError(
                f"--max_seq_length {self.max_seq_length} leaves no room for the context beside "
                f"--max_query_length {self.max_query_length}: at least {self.max_query_length + 4} is needed"
            )


@dataclass(frozen=True)
class Contexts:
    """Tokenised contexts, one after the other.

    Args:
        ids: (tokens,) int32.
        begins: (tokens,) int32, the first character of each token in its context, white space left out.
        ends: (tokens,) int32, the character after its last.
        starts: (contexts + 1,) int64, where the tokens of each begin, and the end of the last's.
    """

    ids: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    starts: np.ndarray

    def tokens_of(self, answer: Answer, context: int) -> tuple[int, int] | None:
        """Find the first and the last token that the answer's text has a part in; None where there are none."""
        tokens = slice(self.starts[context], self.starts[context + 1])
        begin = answer.start + len(answer.text) - len(answer.text.lstrip())
        end = answer.start + len(answer.text.rstrip())
        first = int(np.searchsorted(self.ends[tokens], begin, side="right"))
        last = int(np.searchsorted(self.begins[tokens], end, side="left")) - 1
        return (first, last) if first <= last else None


@dataclass(frozen=True)
class _Windows:
    """Of each window the number of its question, its first token in the context, and its tokens; all (W,) int64."""

    questions: np.ndarray
    first_tokens: np.ndarray
    lengths: np.ndarray


def encode_squad(file: SquadFile, tokenizer: Tokenizer, sizes: WindowSizes, training: bool) -> Features:
    """Encode each window of each question's context as an example; windows of a question are neighbours.

    Columns, all int64 (windows,):
        context_begin, context_end: the window's place in the sequence, half open.
        question, first_token: (not in training) the question's number in the file, and the window's first token in the
            context. A question whose context has no tokens has no window.
        start_positions, end_positions: (where answers were read) the first answer's first and last token in the
            sequence; 0, which is [CLS], where it does not lie in the window whole.
        is_impossible: (where answers were read) 1 where the positions are 0.

    Questions whose answer is not found (see `find_answer`), or whose context has no tokens, are left out in training;
    otherwise their positions are `IGNORED`, so that the loss is without them. A note counts them.

    Raises:
        UserError: no question is left.
    """
    contexts = tokenise_contexts(tokenizer, file.contexts)
    spans: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    if file.has_answers:
        spans, notes = _answer_tokens(file, contexts, training)
    if spans is not None and training:
        kept = spans[:, 0] != _UNKNOWN
        file = replace(file, questions=[each for each, is_kept in zip(file.questions, kept, strict=True) if is_kept])
        spans = spans[kept]
    whole_queries = list(_encode(tokenizer, [each.text for each in file.questions]))
    if num_cut := sum(len(ids) > sizes.max_query_length for ids in whole_queries):
        cut = count_of(num_cut, len(whole_queries), "question")
        notes = (*notes, f"{file.path}: {cut} longer than --max_query_length {sizes.max_query_length}: cut")
    query_ids = [ids[: sizes.max_query_length] for ids in whole_queries]
    query_lengths = np.array([len(ids) for ids in query_ids], dtype=np.int64)
    context_numbers = np.array([question.context for question in file.questions])
    windows = _cut(query_lengths, np.diff(contexts.starts)[context_numbers], sizes)

    first_segments = query_lengths[windows.questions] + 2
    columns = {"context_begin": first_segments, "context_end": first_segments + windows.lengths}
    if not training:
        columns |= {"question": windows.questions, "first_token": windows.first_tokens}
    if spans is not None:
        columns |= _targets(spans, windows, first_segments)

    starts = np.concatenate([[0], np.cumsum(columns["context_end"] + 1)])
    tokens = np.full(starts[-1], tokenizer.sep_id, dtype=np.int32)
    tokens[starts[:-1]] = tokenizer.cls_id
    context_starts = contexts.starts[context_numbers[windows.questions]] + windows.first_tokens
    for window, question in enumerate(windows.questions.tolist()):
        start, begin, end = (int(row[window]) for row in (starts, columns["context_begin"], columns["context_end"]))
        source = int(context_starts[window])
        tokens[start + 1 : start + begin - 1] = query_ids[question]
        tokens[start + begin : start + end] = contexts.ids[source : source + end - begin]
    return Features(tokens, starts, first_segments.astype(np.int32), tokenizer.pad_id, columns, notes=notes)


def tokenise_contexts(tokenizer: Tokenizer, texts: Sequence[str]) -> Contexts:
    """Tokenise texts and find the characters of each token.

    SentencePiece may count the white space before a word among the token's characters; it is left out. A token that
    only says that a word begins, or of white space alone, gets no characters: it begins where it ends.
    """
    word_start = tokenizer.backend.token_to_id(_WORD_START)
    ids, begins, ends = ([np.zeros(0, dtype=np.int32)] for _ in range(3))  # so that the first sum below is 0
    for first in range(0, len(texts), _AT_ONCE):
        part = texts[first : first + _AT_ONCE]
        for text, encoding in zip(part, tokenizer.backend.encode_batch(part, add_special_tokens=False), strict=True):
            ids.append(np.array(encoding.ids, dtype=np.int32))
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            begin, end = _without_space(text, offsets)
            begins.append(begin)
            ends.append(np.where(ids[-1] == word_start, begin, end))
    lengths = np.array([len(each) for each in ids], dtype=np.int64)
    return Contexts(np.concatenate(ids), np.concatenate(begins), np.concatenate(ends), np.cumsum(lengths))


def best_windows(first_tokens: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """For the windows of one question, find the tokens that have more context there than in any other window.

    A token's context is the smaller of the numbers of tokens before and after it in the window, plus a hundredth of the
    window's length; the first of equals wins (Devlin et al. 2019, run_squad.py).

    Returns:
        For each window, bool (its length,).
    """
    if len(lengths) == 1:
        return [np.ones(lengths[0], dtype=bool)]
    places = np.arange((first_tokens + lengths).max())
    before = places - first_tokens[:, None]
    after = lengths[:, None] - 1 - before
    score = np.where((before >= 0) & (after >= 0), np.minimum(before, after) + 0.01 * lengths[:, None], -np.inf)
    best = score.argmax(axis=0)
    return [
        best[first : first + length] == window
        for window, (first, length) in enumerate(zip(first_tokens.tolist(), lengths.tolist(), strict=True))
    ]


def _answer_tokens(file: SquadFile, contexts: Contexts, training: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """The (first, last) token of each question's first answer, int64 (questions, 2), and notes on what is not there.

    Tokens are `_NO_ANSWER` where the question has none, `_UNKNOWN` where it cannot be found.

    Raises:
        UserError: ``training``, and no question is left.
    """
    spans, left_out, moved = [], Counter[str](), 0
    for question in file.questions:
        found = _answer_token(question, file.contexts[question.context], contexts)
        if isinstance(found, str):
            left_out[found] += 1
            spans.append((_UNKNOWN, _UNKNOWN))
        else:
            spans.append(found[0])
            moved += found[1]
    notes = []
    if moved:
        notes.append(
            f"{file.path}: {moved} answers do not begin at their answer_start; they are found in the words there"
        )
    if left_out:
        counts = ", ".join(f"{count} whose {reason}" for reason, count in left_out.items())
        verb = "cannot be trained on" if training else "are no part of the loss"
        message = f"{file.path}: {left_out.total()} of {len(file.questions)} questions {verb}: {counts}"
        if training and left_out.total() == len(file.questions):
            raise UserError(f"{message}; at least one is needed that can")
        notes.append(f"{message}; they are left out" if training else message)
    return np.array(spans, dtype=np.int64).reshape(-1, 2), tuple(notes)


def _answer_token(question: Question, context: str, contexts: Contexts) -> tuple[tuple[int, int], bool] | str:
    """An answer's first and last token, and whether it is not exactly where it says to be; or why there is none."""
    if contexts.starts[question.context] == contexts.starts[question.context + 1]:
        return "context has no tokens"
    if not question.answers:
        return (_NO_ANSWER, _NO_ANSWER), False
    claimed = question.answers[0]
    if not claimed.text.strip():
        return "answer is empty"
    if not 0 <= claimed.start < len(context):
        return "answer_start is outside of the context"
    found = find_answer(context, claimed)
    if found is None:
        return "answer is not in the words at its answer_start"
    span = contexts.tokens_of(found, question.context)
    return (span, found.start != claimed.start) if span else "answer has no tokens"


def _cut(query_lengths: np.ndarray, context_lengths: np.ndarray, sizes: WindowSizes) -> _Windows:
    room = sizes.max_seq_length - query_lengths - 3
    strides = np.minimum(room, sizes.doc_stride)
    counts = np.where(context_lengths > 0, 1 + np.maximum(-(-(context_lengths - room) // strides), 0), 0)
    questions = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(questions)) - np.repeat(np.cumsum(counts) - counts, counts)
    first_tokens = places * strides[questions]
    return _Windows(questions, first_tokens, np.minimum(room[questions], context_lengths[questions] - first_tokens))


def _targets(spans: np.ndarray, windows: _Windows, context_begins: np.ndarray) -> dict[str, np.ndarray]:
    starts, ends = (spans[windows.questions] - windows.first_tokens[:, None]).T
    inside = (spans[windows.questions, 0] >= 0) & (starts >= 0) & (ends < windows.lengths)
    is_unknown = spans[windows.questions, 0] == _UNKNOWN
    elsewhere = np.where(is_unknown, IGNORED, 0)
    return {
        "start_positions": np.where(inside, starts + context_begins, elsewhere),
        "end_positions": np.where(inside, ends + context_begins, elsewhere),
        "is_impossible": (~inside & ~is_unknown).astype(np.int64),
    }


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[np.ndarray]:
    for first in range(0, len(texts), _AT_ONCE):
        ids, lengths = tokenizer.encode(texts[first : first + _AT_ONCE])
        yield from np.split(ids.astype(np.int32), np.cumsum(lengths)[:-1])


def _without_space(text: str, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move the (N, 2) offsets' begins forward and ends back over white space, but no begin past its end."""
    is_space = np.fromiter(map(str.isspace, text), dtype=bool, count=len(text))
    places = np.arange(len(text) + 1)
    next_word, end_of_word = places.copy(), places.copy()
    next_word[:-1][is_space] = len(text)
    next_word = np.minimum.accumulate(next_word[::-1])[::-1]
    end_of_word[1:][is_space] = 0
    end_of_word = np.maximum.accumulate(end_of_word)
    begins = np.minimum(next_word[offsets[:, 0]], offsets[:, 1])
    ends = np.maximum(end_of_word[offsets[:, 1]], begins)
    return begins.astype(np.int32), ends.astype(np.int32)
