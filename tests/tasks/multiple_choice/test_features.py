import json
import random
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.tasks.multiple_choice import features as encoding
from ds_bert.tasks.multiple_choice.features import check_lengths, encode_questions, fill_in, fingerprint
from ds_bert.tasks.multiple_choice.reading import Question, QuestionList, read_own_questions

LINE = {"context": "ba ca.", "question": "da?", "options": ["fa", "ga"], "label": 1}


@pytest.fixture
def tokenizer(vocabulary_file: Path) -> Tokenizer:
    return load_tokenizer(vocabulary_file)


def write_lines(path: Path, *entries: dict) -> Path:
    path.write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    return path


def random_questions(count: int, longest: int) -> list[Question]:
    rng = random.Random(0)
    words = ["ba", "ca", "da", "fau", "gei", "hou", "."]

    def text(most: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(0, most)))

    contexts = [text(longest) for _ in range(count)]
    return [
        Question(
            str(number), rng.choice(contexts), text(9) + rng.choice(["", " _"]), (text(9), text(9), text(9)), number % 3
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("at_once", [1, 7, 256])
def test_sequences_are_those_of_transformers_pair_encoding(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(encoding, "_ENCODED_AT_ONCE", at_once)
    tokenizer.save(tmp_path / "tokenizer")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    questions = random_questions(20, longest=40)
    features = encode_questions(questions, tokenizer, max_seq_length=32, max_qa_length=20)

    assert len(features) == 20 and features.per_example == 3
    assert features.lengths.max() == 32
    assert features.columns["labels"].tolist() == [question.answer for question in questions]
    for number, question in enumerate(questions):
        batch = features.batch(0, np.array([number]))
        for row, option in enumerate(question.options):
            ending = question.text.replace("_", option) if "_" in question.text else f"{question.text} {option}"
            expected = theirs(question.context, ending, truncation="only_first", max_length=32)
            mask = batch.get("attention_mask", np.ones_like(batch["input_ids"], dtype=bool))[row]
            assert batch["input_ids"][row][mask].tolist() == expected["input_ids"]
            assert batch["token_type_ids"][row][mask].tolist() == expected["token_type_ids"]


def test_of_question_and_option_the_end_is_kept_and_of_the_context_the_beginning(tokenizer: Tokenizer) -> None:
    question = Question("1", "ba ca da fa ga", "ha ka la", ("ma", "na pa ra sa ta"), 0)
    features = encode_questions([question], tokenizer, max_seq_length=10, max_qa_length=4)
    batch = features.batch(0, np.array([0]))
    lengths = np.diff(features.starts)
    rows = zip(batch["input_ids"], lengths, strict=True)
    read = [[tokenizer.tokens[token] for token in row[:length]] for row, length in rows]
    assert " ".join(read[0]) == "[CLS] ba ca da [SEP] ha ka la ma [SEP]"
    assert " ".join(read[1]) == "[CLS] ba ca da [SEP] pa ra sa ta [SEP]"


def test_without_context_only_question_and_option_are_left(tokenizer: Tokenizer) -> None:
    question = Question("1", "ba ca", "ha", ("ma", "na pa"), None)
    features = encode_questions([question], tokenizer, 16, 8, without_context=True)
    batch = features.batch(0, np.array([0]))
    ids = [tokenizer.cls_id, *tokenizer.encode(["ha na pa"])[0], tokenizer.sep_id]
    assert batch["input_ids"][1][: len(ids)].tolist() == ids
    assert not batch["token_type_ids"].any()
    assert "labels" not in batch


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("She is _ .", "She is glad ."),
        ("We learn that_.", "We learn thatglad."),
        ("She _____, he ___.", "She glad, he glad."),
        ("Why?", "Why? glad"),
        ("What does get_name do?", "What does get_name do? glad"),
    ],
)
def test_blanks_are_filled_in(text: str, filled: str) -> None:
    assert fill_in(text, "glad") == filled


def test_an_option_is_no_pattern() -> None:
    assert fill_in("_", r"\1 \g<0>") == r"\1 \g<0>"


def test_own_lines(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "own.jsonl", LINE, LINE | {"id": "x", "label": 0})
    first, second = read_own_questions(path)
    assert first == Question("1", "ba ca.", "da?", ("fa", "ga"), 1)
    assert (second.id, second.answer) == ("x", 0)


def test_own_lines_without_labels_can_be_predicted_only(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "own.jsonl", {key: value for key, value in LINE.items() if key != "label"})
    assert read_own_questions(path, with_answers=False)[0].answer is None
    with pytest.raises(UserError, match=r"own.jsonl: line 1: no key 'label' \(keys: 'context', 'question', 'options'"):
        read_own_questions(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "line 2: label is 2, but the options have the numbers 0 to 1"),
        ({"label": -1}, "line 2: label is -1"),
        ({"label": True}, "line 2: label is a bool, needed is a whole number"),
        ({"label": "B"}, "line 2: label is a string, needed is a whole number"),
        ({"options": ["fa"], "label": 0}, "line 2: 1 options, at least 2 are needed"),
        ({"options": ["fa", "ga", "ha"]}, "line 2: 3 options, but the questions before have 2"),
        ({"options": ["fa", 3]}, r"line 2: options\[1\] is a whole number, needed is a string"),
        ({"options": "fa"}, "line 2: options is a string, needed is a list"),
        ({"context": None}, "line 2: context is a NoneType, needed is a string"),
        ({"id": "1"}, "line 2: the id '1' stands there twice"),
    ],
)
def test_wrong_own_lines_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    path = write_lines(tmp_path / "own.jsonl", LINE, LINE | change)
    with pytest.raises(UserError, match=message):
        read_own_questions(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "own.jsonl: no question"),
        (b"\n\n", "own.jsonl: no question"),
        (b"{\n", "own.jsonl: line 1: not JSON"),
        (b"[1]\n", "own.jsonl: line 1: a list, needed is an object with the key 'context'"),
        (b"\xff\n", "own.jsonl: line 1: byte 0xff is not UTF-8"),
    ],
)
def test_files_that_are_no_json_lines_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_own_questions(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing.jsonl: no such file"):
        read_own_questions(tmp_path / "nothing.jsonl")


def test_half_a_surrogate_pair_is_no_reason_to_stop(tmp_path: Path, tokenizer: Tokenizer) -> None:
    questions = read_own_questions(write_lines(tmp_path / "own.jsonl", LINE | {"context": "ba \ud83d"}))
    assert len(encode_questions(questions, tokenizer, 16, 8)) == 1


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no question"):
        QuestionList(tmp_path).finish()


@pytest.mark.parametrize(
    ("lengths", "message"), [((128, 128), "--max_seq_length 128 .* at least 132"), ((9, 0), "--max_qa_length 0")]
)
def test_lengths_without_room_are_refused(lengths: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_lengths(*lengths)


def test_a_fingerprint_follows_all_that_is_encoded() -> None:
    question = Question("1", "ba", "ca", ("da", "fa"), 0)
    others = [
        Question("1", "bb", "ca", ("da", "fa"), 0),
        Question("1", "ba", "cb", ("da", "fa"), 0),
        Question("1", "ba", "ca", ("da", "fb"), 0),
        Question("1", "ba", "ca", ("da", "fa"), 1),
    ]
    assert len({fingerprint([one]) for one in [question, *others]} | {fingerprint([question, question])}) == 6
