"""A user's own texts: columns and labels found where they are clear, refused where they are not."""

import json
from pathlib import Path
from typing import Any

import pytest

from ds_bert.data.tables import open_table
from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.tasks.glue.features import Encoder, TextData
from ds_bert.tasks.glue.own_data import Columns, own_data


@pytest.fixture
def tokenizer(vocabulary_file: Path) -> Tokenizer:
    return load_tokenizer(vocabulary_file)


def labels_of(data: TextData, tokenizer: Tokenizer) -> list[float]:
    assert data.train is not None
    return Encoder(tokenizer, 16, data.labels).features(data.train).columns["labels"].tolist()


def own(tmp_path: Path, records: list[dict[str, object]], **options) -> TextData:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    columns = Columns(*(options.pop(name, None) for name in ("text", "pair", "label")))
    return own_data({"train": open_table(path)}, ["train"], columns, **options)


@pytest.mark.parametrize(
    ("values", "labels", "ids"),
    [
        (["no", "yes", "no"], ("no", "yes"), [0, 1, 0]),
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        (["10", "9", "-1"], ("-1", "9", "10"), [2, 1, 0]),
        ([True, False, True], ("false", "true"), [1, 0, 1]),
        ([1.0, 2.5, 3.0], (), [1.0, 2.5, 3.0]),
        (["1", "2.5", "-1e1"], (), [1.0, 2.5, -10.0]),
        (["1", "+2.5", ".5", "3.", "1e-05"], (), [1.0, 2.5, 0.5, 3.0, pytest.approx(1e-5)]),
        (["1_1", "2_3"], ("1_1", "2_3"), [0, 1]),  # none of these are numbers as people write them
        ([" 0", " 1"], (" 0", " 1"), [0, 1]),
        (["0.5 ", "2.5"], None, "line 2: the label is '0.5 ', but others are numbers, such as '2.5'"),
        (["\t1.5", " 2.5"], ("\t1.5", " 2.5"), [0, 1]),
        (["+1", "-1", "+1"], ("-1", "+1"), [1, 0, 1]),
        (["٣", "٤"], ("٣", "٤"), [0, 1]),
        (["1.5", "１.5"], None, "line 3: the label is '１.5'"),
        (["0x1", "0x2"], ("0x1", "0x2"), [0, 1]),
        (["1e1", "2e3"], ("1e1", "2e3"), [0, 1]),
        (["1,5", "2,5"], ("1,5", "2,5"), [0, 1]),
        (["1.1.0", "1.2.0"], ("1.1.0", "1.2.0"), [0, 1]),
        ([2, 1, 10], ("1", "2", "10"), [1, 0, 2]),
        (["007", "7"], ("007", "7"), [0, 1]),
        ([1.0, 2.0], (), [1.0, 2.0]),
        (["1.5", "nan", "1.5"], None, "line 3: the label is 'nan', but others are numbers, such as '1.5'; needs a"),
        ([1.5, float("nan")], None, "line 3: the label is 'NaN'"),
        ([float("inf"), 1.5], None, "line 2: the label is 'Infinity'"),
        (["3", "-Infinity", "4"], None, "line 3: the label is '-Infinity', but others are numbers, such as '3'"),
        (["3.5", "1e999"], None, "line 3: the label is '1e999'"),
        (["0", "NaN", "1"], None, "line 3: the label is 'NaN'"),
        (["0.5", "n/a", "1.5"], None, r"line 3: the label is 'n/a', .* or --regression false where labels are classes"),
        (["0", "unknown", "1"], ("0", "1", "unknown"), [0, 2, 1]),
        (["nan", "cdo"], ("cdo", "nan"), [1, 0]),  # languages
    ],
)
def test_own_labels_are_found(
    tmp_path: Path, tokenizer: Tokenizer, values: list, labels: tuple[str, ...] | None, ids: Any
) -> None:
    """Labels, none of them in a regression, and ids; or the refusal. Values stand from line 2 of a CSV on."""
    path = tmp_path / "own.csv"
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    path.write_text("text,label\n" + "".join(f'ba,"{text}"\n' for text in texts))
    if labels is None:
        with pytest.raises(UserError, match=ids):
            own_data({"train": open_table(path)}, ["train"], Columns())
        return
    for data in (
        own(tmp_path, [{"text": "ba", "label": value} for value in values]),
        own_data({"train": open_table(path)}, ["train"], Columns()),
    ):
        assert data.labels == labels
        assert labels_of(data, tokenizer) == ids


def test_what_is_guessed_is_said(tmp_path: Path) -> None:
    for values, note in (
        (["b", "a"], "labels: 2 classes: 'a', 'b'"),
        (["0", "5", "2.5"], "labels: numbers from 0 to 5: a regression"),
        ([-1, 1], "labels: 2 classes: '-1', '1'"),
        (range(30), "labels: 30 classes: '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '10', '11', '12', '13', '14'"
            ", '15', '16', '17', '18', '19', …; if they are numbers to be predicted, say that it is a regression"),
    ):  # fmt: skip
        assert own(tmp_path, [{"text": "ba", "label": value} for value in values]).notes[0] == note


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        (["0.5", "1.5"], "good", "line 2: the label is 'good'; needs a number, as this is a regression"),
        (["0.5", "1.5"], "nan", "line 2: the label is 'nan'; needs a number"),
        (["0.5", "1.5"], "1_1", "line 2: the label is '1_1'; needs a number"),
        (["bad", "good"], "0.5", "line 2: the label is '0.5'; needs one of 'bad', 'good'"),
        (["0", "1"], "0.5", "line 2: the label is '0.5'; needs one of '0', '1'"),
        (["0", "1"], " 1", "line 2: the label is ' 1'; needs one of '0', '1'"),
    ],
)
def test_splits_that_disagree_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, train: list[str], dev: str, message: str
) -> None:
    tables = {}
    for split, labels in (("train", train), ("eval", [dev])):
        path = tmp_path / f"{split}.csv"
        path.write_text("text,label\n" + "".join(f"ba,{label}\n" for label in labels))
        tables[split] = open_table(path)
    data = own_data(tables, ["train", "eval"], Columns())
    with pytest.raises(UserError, match=rf"eval\.csv: {message}"):
        Encoder(tokenizer, 16, data.labels).features(data.evaluation["validation"])


def test_own_labels_can_be_told(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records = [{"text": "ba", "label": value} for value in (1, 2)]
    assert own(tmp_path, records, regression=True).labels == ()
    assert own(tmp_path, [{"text": "ba", "label": v} for v in (0.5, 1.5)], regression=False).labels == ("0.5", "1.5")
    blanks = own(tmp_path, [{"text": "ba", "label": v} for v in (" 0.5", "1 ")], regression=True)
    assert labels_of(blanks, tokenizer) == [0.5, 1.0]
    data = own(tmp_path, records, declared=["2", "1", "0"])
    assert labels_of(data, tokenizer) == [1, 0]
    data = own(tmp_path, records, declared=["0", "1"])
    with pytest.raises(UserError, match="line 2: the label is '2'; needs one of '0', '1'"):
        labels_of(data, tokenizer)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["sentence1", "sentence2", "label"], ("sentence1", "sentence2")),
        (["hypothesis", "premise", "genre", "label"], ("premise", "hypothesis")),
        (["question", "sentence", "label"], ("question", "sentence")),
        (["text", "source", "label"], ("text",)),
        (["id", "review", "label"], ("review",)),
    ],
)
def test_own_text_columns_are_guessed(tmp_path: Path, columns: list[str], expected: tuple[str, ...]) -> None:
    data = own(tmp_path, [dict.fromkeys(columns, value) for value in ("a", "b")])
    assert data.train is not None
    assert data.train.texts == expected


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (["a", "b", "label"], {}, "the columns are 'a', 'b', 'label', and which of them is the text .*--text_column"),
        (["text", "sentence", "label"], {}, "is the text is not clear"),
        (["text", "class"], {}, "is the label is not clear; needs --label_column"),
        (["text", "label"], {"text": "txt"}, "no column 'txt'"),
        (["text", "label"], {"label": "y"}, "no column 'y'"),
        (["text", "label"], {"pair": "text"}, "--text_pair_column text without"),
    ],
)
def test_unclear_own_columns_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, columns: list[str], options: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        data = own(tmp_path, [dict.fromkeys(columns, value) for value in ("a", "b")], **options)
        labels_of(data, tokenizer)


def test_own_labels_that_tell_nothing_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the column 'label' holds 'a'; needs at least two"):
        own(tmp_path, [{"text": "ba", "label": "a"}] * 3)
    with pytest.raises(UserError, match="line 2: no label"):
        own(tmp_path, [{"text": "ba", "label": "a"}, {"text": "ba"}])


def test_own_splits_need_their_files(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\n")
    with pytest.raises(UserError, match="--validation_file is not given, but eval is asked for"):
        own_data({"train": open_table(path)}, ["eval"], Columns())
    with pytest.raises(UserError, match="not known without training examples; needs --train_file"):
        own_data({"predict": open_table(path)}, ["predict"], Columns())
    data = own_data({"predict": open_table(path)}, ["predict"], Columns(), label_names=["b", "c"])
    assert data.prediction["test"].label is None


def test_labels_of_a_trained_model(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\nc,a\n")
    numbered = ["LABEL_0", "LABEL_1"]
    cases = [
        ({"predict"}, ["x", "y"], ("x", "y")),
        ({"predict"}, numbered, ("LABEL_0", "LABEL_1")),
        ({"predict", "train"}, numbered, ("a", "b")),
        ({"predict", "train"}, ["c", "B", "A"], ("c", "b", "a")),
        ({"predict"}, ["score"], ()),
    ]
    for given, names, expected in cases:
        tables = {split: open_table(path) for split in given}
        assert own_data(tables, ["predict"], Columns(), label_names=names).labels == expected
