"""Windows of SQuAD contexts, against one question, one window and one token at a time."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.tasks.squad.features import WindowSizes, best_windows, encode_squad, tokenise_contexts
from ds_bert.tasks.squad.reading import Question, SquadFile, read_squad
from tests.support.squad import TOKENIZERS, qa, random_squad, word_piece, write_squad

SMALL = WindowSizes(max_seq_length=24, doc_stride=5, max_query_length=6)
tokenizer_kinds = pytest.mark.parametrize("make_tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


def context_tokens(context: str, tokenizer: Tokenizer) -> list[tuple[int, set[int]]]:
    """Each token's id and its characters that are not white space; a token that only begins a word has none."""
    encoding = tokenizer.backend.encode(context, add_special_tokens=False)
    return [
        (
            token,
            {place for place in range(begin, end) if tokenizer.tokens[token] != "▁" and not context[place].isspace()},
        )
        for token, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True)
    ]


def naive_windows(
    question: Question, file: SquadFile, tokenizer: Tokenizer, sizes: WindowSizes
) -> list[dict[str, Any]]:
    """The windows of one question, cut as in BERT's run_squad.py."""
    context = file.contexts[question.context]
    query = tokenizer.backend.encode(question.text, add_special_tokens=False).ids[: sizes.max_query_length]
    tokens = context_tokens(context, tokenizer)
    characters: set[int] = set()
    if question.answers:
        answer = question.answers[0]
        characters = set(range(answer.start, answer.start + len(answer.text)))
    gold = [number for number, (_, own) in enumerate(tokens) if own & characters]
    room, windows, start = sizes.max_seq_length - len(query) - 3, [], 0
    while start < len(tokens):
        length = min(room, len(tokens) - start)
        part = range(start, start + length)
        begin = len(query) + 2
        inside = bool(gold) and gold[0] in part and gold[-1] in part
        windows.append(
            {
                "tokens": [tokenizer.cls_id, *query, tokenizer.sep_id, *(tokens[i][0] for i in part), tokenizer.sep_id],
                "context_begin": begin,
                "context_end": begin + length,
                "first_token": start,
                "start_positions": begin + gold[0] - start if inside else 0,
                "end_positions": begin + gold[-1] - start if inside else 0,
                "is_impossible": int(not inside),
            }
        )
        if start + length == len(tokens):
            break
        start += min(room, sizes.doc_stride)
    return windows


def check(file: SquadFile, tokenizer: Tokenizer, sizes: WindowSizes) -> int:
    """Compare all windows; return how many hold their answer."""
    expected = [
        window | {"question": number}
        for number, question in enumerate(file.questions)
        for window in naive_windows(question, file, tokenizer, sizes)
    ]
    train, evaluation = (encode_squad(file, tokenizer, sizes, training=training) for training in (True, False))
    assert set(train.columns) == {"context_begin", "context_end", "start_positions", "end_positions", "is_impossible"}
    assert set(evaluation.columns) == {*train.columns, "question", "first_token"}
    blind = encode_squad(replace(file, has_answers=False), tokenizer, sizes, training=False)
    assert set(blind.columns) == {"context_begin", "context_end", "question", "first_token"}
    for features in (train, evaluation):
        assert len(features) == len(expected)
        assert features.pad_id == tokenizer.pad_id
        assert features.lengths.max() <= sizes.max_seq_length
        for number, window in enumerate(expected):
            assert features.tokens[features.starts[number] : features.starts[number + 1]].tolist() == window["tokens"]
            assert features.first_segments[number] == window["context_begin"]
            for name, column in features.columns.items():
                assert column.dtype == np.int64
                assert column[number] == window[name], (number, name)
    return sum(not window["is_impossible"] for window in expected)


@tokenizer_kinds
@pytest.mark.parametrize("sizes", [SMALL, WindowSizes(24, 100, 6), WindowSizes(384, 128, 64), WindowSizes(10, 1, 6)])
def test_windows_are_those_of_the_loop(tmp_path: Path, make_tokenizer: Callable, sizes: WindowSizes) -> None:
    file = read_squad(random_squad(tmp_path / "a.json"), version_2=False)
    assert check(file, make_tokenizer(), sizes) > 0


@tokenizer_kinds
def test_tokens_cover_the_words_and_no_white_space(tmp_path: Path, make_tokenizer: Callable) -> None:
    texts = [*read_squad(random_squad(tmp_path / "a.json", contexts=20), False).contexts, "", "  ", " red  river "]
    tokenizer = make_tokenizer()
    contexts = tokenise_contexts(tokenizer, texts)
    for number, text in enumerate(texts):
        tokens = slice(contexts.starts[number], contexts.starts[number + 1])
        begins, ends = contexts.begins[tokens], contexts.ends[tokens]
        expected = context_tokens(text, tokenizer)
        assert contexts.ids[tokens].tolist() == [token for token, _ in expected]
        assert (begins <= ends).all() and (np.diff(begins) >= 0).all() and (np.diff(ends) >= 0).all()
        for begin, end, (_, own) in zip(begins, ends, expected, strict=True):
            assert {place for place in range(begin, end) if not text[place].isspace()} == own
            assert text[begin:end] == text[begin:end].strip()


def test_no_context_is_tokenised_to_nothing() -> None:
    assert tokenise_contexts(word_piece(), []).starts.tolist() == [0]


@tokenizer_kinds
def test_white_space_around_an_answer_is_not_part_of_it(tmp_path: Path, make_tokenizer: Callable) -> None:
    path = write_squad(tmp_path / "a.json", [("red  river north", [qa(1, "where", [("  river ", 3)])])])
    file, tokenizer = read_squad(path, False), make_tokenizer()
    contexts = tokenise_contexts(tokenizer, file.contexts)
    span = contexts.tokens_of(file.questions[0].answers[0], 0)
    assert span is not None
    assert file.contexts[0][contexts.begins[span[0]] : contexts.ends[span[1]]] == "river"


def test_questions_that_cannot_be_trained_on_are_counted(tmp_path: Path) -> None:
    context = "red river"
    answers = [("river", 4), ("river", 3), ("river", -5), (" ", 3), ("river", 0), ("riverx", 4), ("\u00ad", 9)]
    qas = [qa(number, "a", [answer]) for number, answer in enumerate(answers)]
    path = write_squad(
        tmp_path / "a.json", [(f"{context}\u00ad", qas), ("\u00ad \n", [qa("x", "e", [("\u00ad", 0)]), qa("y", "f")])]
    )
    file, tokenizer = read_squad(path, version_2=True), word_piece()
    train = encode_squad(file, tokenizer, SMALL, training=True)
    assert train.columns["start_positions"].tolist() == train.columns["end_positions"].tolist() == [4, 4, 4]
    assert train.columns["is_impossible"].tolist() == [0, 0, 0]
    reasons = (
        "1 whose answer_start is outside of the context, 1 whose answer is empty, "
        "1 whose answer is not in the words at its answer_start, 1 whose answer has no tokens, "
        "2 whose context has no tokens"
    )
    moved = f"{path}: 2 answers do not begin at their answer_start; they are found in the words there"
    assert train.notes == (moved, f"{path}: 6 of 9 questions cannot be trained on: {reasons}; they are left out")
    evaluation = encode_squad(file, tokenizer, SMALL, training=False)
    assert evaluation.columns["question"].tolist() == [*range(7)]
    assert evaluation.columns["start_positions"].tolist() == [4, 4, -100, -100, 4, -100, -100]
    assert evaluation.columns["is_impossible"].tolist() == [0] * 7
    assert evaluation.notes == (moved, f"{path}: 6 of 9 questions are no part of the loss: {reasons}")


def test_a_file_of_which_no_question_is_left_is_refused(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "a.json", [("red river", [qa(1, "a", [("rivers", 1)])])])
    with pytest.raises(UserError, match=r"a\.json: 1 of 1 questions.*at least one"):
        encode_squad(read_squad(path, False), word_piece(), SMALL, training=True)


def test_unanswerable_questions_point_to_cls(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "a.json", [("red river", [qa(1, "a"), qa(2, "b", [("red", 0)])])])
    columns = encode_squad(read_squad(path, True), word_piece(), SMALL, training=True).columns
    assert columns["is_impossible"].tolist() == [1, 0]
    assert columns["start_positions"].tolist() == columns["end_positions"].tolist() == [0, 3]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((67, 1, 64), "max_seq_length 67.*68"), ((384, 0, 64), "doc_stride 0"), ((384, 1, 0), "max_query_length 0")],
)
def test_sizes_without_room_are_refused(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WindowSizes(*sizes)


def test_a_token_is_answered_in_the_window_where_it_has_most_context() -> None:
    chance = random.Random(0)
    for _ in range(50):
        room, stride, total = chance.randint(1, 12), chance.randint(1, 12), chance.randint(1, 40)
        firsts = [0]
        while firsts[-1] + room < total:
            firsts.append(firsts[-1] + min(room, stride))
        lengths = [min(room, total - first) for first in firsts]
        found = best_windows(np.array(firsts), np.array(lengths))
        for token in range(total):
            best, best_score = -1, -1.0
            for window, (first, length) in enumerate(zip(firsts, lengths, strict=True)):
                if first <= token < first + length:
                    score = min(token - first, first + length - 1 - token) + 0.01 * length
                    if score > best_score:
                        best, best_score = window, score
            for window, (first, length) in enumerate(zip(firsts, lengths, strict=True)):
                if first <= token < first + length:
                    assert found[window][token - first] == (window == best)


@pytest.mark.skipif("DS_BERT_DATA" not in os.environ, reason="DS_BERT_DATA names no folder of real data")
@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_windows_of_real_questions_are_those_of_the_loop(version: str) -> None:
    folder = Path(os.environ["DS_BERT_DATA"])
    file = read_squad(folder / "squad" / f"dev-v{version}.json", version == "2.0").first(300)
    tokenizer = load_tokenizer(folder / "vocab" / "bert-base-cased")
    assert check(file, tokenizer, WindowSizes(128, 64, 20)) > 100
