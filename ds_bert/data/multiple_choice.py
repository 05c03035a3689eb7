"""Questions with options to choose among: checks, reading one's own JSON lines, and encoding.

RACE and DREAM, each in a module of its own, are read into the same `Question`.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.data.features import Features, count_of
from ds_bert.data.tables import whole_text
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.files import read_lines

# A blank to fill in; underscores between two letters are part of a name, as in get_name.
_BLANK = re.compile(r"(?<!\w)_+|(?<!_)_+(?!\w)")
_ENCODED_AT_ONCE = 256  # questions; the tokenizers library's results are large
_JSON_NAMES = {str: "string", list: "list", int: "whole number", dict: "object"}


@dataclass(frozen=True)
class Question:
    """A question on a context.

    Args:
        id: unique within its split.
        context: article or dialogue.
        text: what is asked, maybe with a blank ("_") that the options fill in.
        options: what to choose among.
        answer: number of the right option, from 0; None where it is not known.
        group: part of the data set whose accuracy is measured by itself, such as "high"; "" for none.
    """

    id: str
    context: str
    text: str
    options: tuple[str, ...]
    answer: int | None
    group: str = ""


class QuestionList:
    """Collects the questions of a split, and refuses those that do not fit together.

    Args:
        source: names the split's file or folder in messages.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._questions: dict[str, Question] = {}

    def add(self, where: str, question: Question) -> None:
        """Add a question; ``where`` names its place in messages.

        Raises:
            UserError: it has fewer than two options, not as many as those before, or an id that stands there already.
        """
        count, first = len(question.options), next(iter(self._questions.values()), question)
        if count < 2:
            raise UserError(f"{where}: {count} options, at least 2 are needed")
        if count != len(first.options):
            raise UserError(
                f"{where}: {count} options, but the questions before have {len(first.options)}; "
                "all questions of a data set need the same number"
            )
        if question.id in self._questions:
            raise UserError(f"{where}: the id {question.id!r} stands there twice, ids must be unique")
        self._questions[question.id] = question

    def finish(self) -> list[Question]:
        """Return the questions in order; raises `UserError` where there is none."""
        if not self._questions:
            raise UserError(f"{self.source}: no question, at least one is needed")
        return list(self._questions.values())


def value_of(entry: Any, key: str, kind: type, where: str) -> Any:
    """Return ``entry[key]`` if it is of this kind (str, list, int or dict).

    Raises:
        UserError: ``entry`` is no JSON object, lacks the key, or holds something else there.
    """
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: a {_kind_of(entry)}, needed is an object with the key {key!r}")
    if key not in entry:
        keys = ", ".join(map(repr, entry)) or "none"
        raise UserError(f"{where}: no key {key!r} (keys: {keys}), it is needed")
    if type(entry[key]) is not kind:
        raise UserError(f"{where}: {key} is a {_kind_of(entry[key])}, needed is a {_JSON_NAMES[kind]}")
    return whole_text(entry[key]) if kind is str else entry[key]


def texts_of(values: Any, where: str) -> tuple[str, ...]:
    """Return a list of strings as a tuple; raises `UserError` where it is anything else."""
    if type(values) is not list:
        raise UserError(f"{where}: a {_kind_of(values)}, needed is a list of strings")
    for place, value in enumerate(values):
        if type(value) is not str:
            raise UserError(f"{where}[{place}] is a {_kind_of(value)}, needed is a string")
    return tuple(map(whole_text, values))


def _kind_of(value: Any) -> str:
    return _JSON_NAMES.get(type(value), type(value).__name__)


def read_own_questions(path: Path, with_answers: bool = True) -> list[Question]:
    """Read JSON lines: ``{"context": …, "question": …, "options": […], "label": …}``, maybe with an ``id``.

    Args:
        path: one question a line; ``label`` is the number of the right option, from 0. Without an ``id``, the line's
            number is taken.
        with_answers: whether a label is needed; where not, one that is there is read all the same.

    Raises:
        UserError: naming the line and the key.
    """
    questions = QuestionList(path)
    for number, entry in _json_lines(path):
        where = f"{path}: line {number}"
        context, text = value_of(entry, "context", str, where), value_of(entry, "question", str, where)
        options = texts_of(value_of(entry, "options", list, where), f"{where}: options")
        label = value_of(entry, "label", int, where) if with_answers or "label" in entry else None
        if label is not None and not 0 <= label < len(options):
            raise UserError(f"{where}: label is {label}, but the options have the numbers 0 to {len(options) - 1}")
        name = value_of(entry, "id", str, where) if "id" in entry else str(number)
        questions.add(where, Question(name, context, text, options, label))
    return questions.finish()


def _json_lines(path: Path) -> Iterable[tuple[int, Any]]:
    for number, line in read_lines(path):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number}: not JSON ({error}), one object a line is needed") from None


def fingerprint(questions: Sequence[Question]) -> str:
    """Return a SHA-256 of all that the encoded questions follow from, but for the tokenizer."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update(json.dumps([question.context, question.text, question.options, question.answer]).encode())
    return digest.hexdigest()


def fill_in(text: str, option: str) -> str:
    """Put the option where the question has a blank ("_"), else behind the question."""
    filled, blanks = _BLANK.subn(lambda _: option, text)
    return filled if blanks else f"{text} {option}"


def check_lengths(max_seq_length: int, max_qa_length: int) -> None:
    """Refuse lengths that leave no token of context; raises `UserError`."""
    if max_qa_length < 1:
        raise UserError(f"--max_qa_length {max_qa_length}: at least 1 is needed")
    if max_seq_length < max_qa_length + 4:
        raise UserError(
            f"--max_seq_length {max_seq_length} leaves no room for the context beside --max_qa_length {max_qa_length}: "
            f"at least {max_qa_length + 4} is needed, or a smaller --max_qa_length"
        )


def encode_questions(
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    max_seq_length: int,
    max_qa_length: int,
    without_context: bool = False,
) -> Features:
    """Encode each option as ``[CLS] context [SEP] question and option [SEP]``, see `fill_in`.

    Of question and option the last ``max_qa_length`` tokens are kept, of the context the first that there is room for.

    Args:
        questions: all with the same number of options.
        tokenizer: of the model.
        max_seq_length: most tokens of a sequence.
        max_qa_length: most tokens of question and option.
        without_context: encode ``[CLS] question and option [SEP]``: what can be guessed without reading.

    Returns:
        As many sequences an example as it has options; the column ``labels``, int64, where all answers are known.
    """
    sequences: list[np.ndarray] = []
    first_segments: list[int] = []
    num_cut = 0
    cls, sep = np.array([tokenizer.cls_id], np.int32), np.array([tokenizer.sep_id], np.int32)
    for begin in range(0, len(questions), _ENCODED_AT_ONCE):
        chunk = questions[begin : begin + _ENCODED_AT_ONCE]
        distinct = [] if without_context else list(dict.fromkeys(question.context for question in chunk))
        contexts = dict(zip(distinct, _encode(tokenizer, distinct), strict=True))
        filled = [fill_in(question.text, option) for question in chunk for option in question.options]
        owners = (question for question in chunk for _ in question.options)
        for question, ending in zip(owners, _encode(tokenizer, filled), strict=True):
            is_cut, ending = len(ending) > max_qa_length, ending[-max_qa_length:]
            if without_context:
                sequences.append(np.concatenate([cls, ending, sep]))
                first_segments.append(len(sequences[-1]))
            else:
                whole = contexts[question.context]
                context = whole[: max_seq_length - len(ending) - 3]
                is_cut |= len(context) < len(whole)
                sequences.append(np.concatenate([cls, context, sep, ending, sep]))
                first_segments.append(len(context) + 2)
            num_cut += is_cut
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(sequence) for sequence in sequences])])
    answers = [question.answer for question in questions]
    columns = {} if None in answers else {"labels": np.array(answers, dtype=np.int64)}
    segments = np.array(first_segments, dtype=np.int32)
    features = Features(
        np.concatenate(sequences), starts, segments, tokenizer.pad_id, columns, len(questions[0].options)
    )
    if not num_cut:
        return features
    cut = count_of(num_cut, len(sequences), "option")
    limits = f"--max_seq_length {max_seq_length} or --max_qa_length {max_qa_length}"
    return replace(features, notes=(f"{cut} longer, with context and question, than {limits}: cut",))


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    ids, lengths = tokenizer.encode(texts)
    return np.split(ids.astype(np.int32), np.cumsum(lengths)[:-1]) if len(texts) else []
