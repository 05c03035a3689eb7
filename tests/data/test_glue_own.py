"""A user's own texts: columns and labels found where they are clear, refused where they are not."""

import json
from pathlib import Path

import pytest

from ds_bert.data.glue_features import Encoder, TextData
from ds_bert.data.glue_own import Columns, own_data
from ds_bert.data.tables import open_table
from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError


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
        (["1.5", "nan", "1.5"], ("1.5", "nan"), [0, 1, 0]),
    ],
)
def test_own_labels_are_found(
    tmp_path: Path, tokenizer: Tokenizer, values: list, labels: tuple[str, ...], ids: list
) -> None:
    data = own(tmp_path, [{"text": "ba", "label": value} for value in values])
    assert data.labels == labels
    assert labels_of(data, tokenizer) == ids


def test_own_labels_can_be_told(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records = [{"text": "ba", "label": value} for value in (1, 2)]
    assert own(tmp_path, records, regression=True).labels == ()
    assert own(tmp_path, [{"text": "ba", "label": v} for v in (0.5, 1.5)], regression=False).labels == ("0.5", "1.5")
    data = own(tmp_path, records, label_names=["2", "1", "0"])
    assert labels_of(data, tokenizer) == [1, 0]
    data = own(tmp_path, records, label_names=["0", "1"])
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
        (["a", "b", "label"], {}, "which of the columns 'a', 'b', 'label' is the text .*--text_column"),
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
        ({"predict"}, ["score"], ()),
    ]
    for given, names, expected in cases:
        tables = {split: open_table(path) for split in given}
        assert own_data(tables, ["predict"], Columns(), label_names=names).labels == expected
