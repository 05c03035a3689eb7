"""SNLI and SciTail, in the layouts they are handed out in."""

from pathlib import Path

import pytest

from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.tasks.glue.benchmark import find_task, glue_data
from ds_bert.tasks.glue.features import Encoder


def write(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def test_snli_leaves_out_what_people_did_not_agree_on(tmp_path: Path, vocabulary_file: Path) -> None:
    header = ["index", "sentence1", "sentence2", "gold_label"]
    rows = [["0", "a", "b", "neutral"], ["1", "c", "d", "-"], ["2", "e", "f", "entailment"]]
    for name in ("train", "dev", "test"):
        write(tmp_path / "SNLI" / f"{name}.tsv", [header, *rows])
    data = glue_data(find_task("SNLI"), tmp_path, ["train", "eval", "predict"])
    encoder = Encoder(load_tokenizer(vocabulary_file), 16, data.labels)
    assert data.train is not None
    assert encoder.features(data.train).columns["labels"].tolist() == [1, 0]
    assert len(encoder.features(data.evaluation["validation"])) == 2
    assert len(encoder.features(data.prediction["test"])) == 3


@pytest.mark.parametrize("name", ["SciTail", "scitail"])
def test_scitail_has_no_header(tmp_path: Path, vocabulary_file: Path, name: str) -> None:
    write(tmp_path / "SciTail" / "scitail_1.0_train.tsv", [["a", "b", "neutral"], ["c", "d", "entails"]])
    data = glue_data(find_task(name), tmp_path, ["train"])
    assert data.train is not None
    features = Encoder(load_tokenizer(vocabulary_file), 16, data.labels).features(data.train)
    assert features.columns["labels"].tolist() == [1, 0]
