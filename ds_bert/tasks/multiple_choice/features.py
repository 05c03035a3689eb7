"""From questions to features: each option with the context and the question as one sequence."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ds_bert.data.features import Features, count_of
from ds_bert.data.vocabulary import Tokenizer
from ds_bert.errors import UserError
from ds_bert.tasks.multiple_choice.reading import Question

# A blank to fill in; underscores between two letters are part of a name, as in get_name.
_BLANK = re.compile(r"(?<!\w)_+|(?<!_)_+(?!\w)")
_ENCODED_AT_ONCE = 256  # questions; the tokenizers library's results are large


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
