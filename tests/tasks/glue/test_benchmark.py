"""GLUE's files: every line becomes the example it should, or a sentence that says why not."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ds_bert.data.features import join_pair
from ds_bert.data.tables import open_table
from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.tasks.glue.benchmark import TASKS, find_task, glue_data
from ds_bert.tasks.glue.features import Encoder, TextSplit

DATA = os.environ.get("DS_BERT_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="DS_BERT_DATA names no folder of data")
# Examples of the official files, where they are as they are given out.
OFFICIAL = {
    "cola": (8551, 1043, 1063),
    "sst2": (67349, 872, 1821),
    "stsb": (5749, 1500, 1379),
    "rte": (2490, 277, 3000),
    "wnli": (635, 71, 146),
}


@pytest.fixture
def tokenizer(vocabulary_file: Path) -> Tokenizer:
    return load_tokenizer(vocabulary_file)


def write_glue(folder: Path) -> Path:
    """Write small files in the official layouts of five tasks, and of the diagnostic set."""
    mnli_header = "\t".join(["index", *(f"column{number}" for number in range(7)), "sentence1", "sentence2"])
    mnli = "\t".join(["3", *["x"] * 7, "ba", "be"])
    files = {
        "CoLA/train.tsv": 'gj04\t1\t\tba " be .\ngj04\t0\t*\tbi bo .\n',
        "CoLA/dev.tsv": "gj04\t0\t*\tba",
        "CoLA/test.tsv": "index\tsentence\n7\tba be\n9\tbi\n",
        "MRPC/train.tsv": '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\t" ba\tbe\n0\t3\t4\tbi "\tbo\n',
        "STS-B/dev.tsv": "index\tgenre\tsentence1\tsentence2\tscore\n0\tx\tba\tbe\t3.800\n1\tx\tba\tbe\t0.25\n",
        "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tba\tbe\t1\n",
        "QQP/test.tsv": "id\tquestion1\tquestion2\n5\tba\tbe\n",
        "MNLI/train.tsv": f"{mnli_header}\tlabel1\tgold_label\n{mnli}\tneutral\tcontradiction\n",
        "diagnostic/diagnostic.tsv": "index\tsentence1\tsentence2\n0\tba\tbe\n",
    }
    for split in ("matched", "mismatched"):
        five = "\t".join(f"label{number}" for number in range(1, 6))
        votes = "\t".join(["entailment"] * 5)
        files[f"MNLI/dev_{split}.tsv"] = f"{mnli_header}\t{five}\tgold_label\n{mnli}\t{votes}\tneutral\n"
        files[f"MNLI/test_{split}.tsv"] = f"{mnli_header}\n{mnli}\n"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def labels_of(source: TextSplit | None, tokenizer: Tokenizer, labels: tuple[str, ...]) -> list[float]:
    assert source is not None
    return Encoder(tokenizer, 16, labels).features(source).columns["labels"].tolist()


@pytest.mark.parametrize(
    ("name", "split", "texts", "labels"),
    [
        ("cola", "train", [('ba " be .',), ("bi bo .",)], [1, 0]),
        ("cola", "eval", [("ba",)], [0]),
        ("cola", "predict", [("ba be",), ("bi",)], None),
        ("mrpc", "train", [('" ba', "be"), ('bi "', "bo")], [1, 0]),
        ("stsb", "eval", [("ba", "be")] * 2, [np.float32(3.8), 0.25]),
        ("qqp", "train", [("ba", "be")], [1]),
        ("qqp", "predict", [("ba", "be")], None),
        ("mnli", "train", [("ba", "be")], [2]),
        ("mnli", "eval", [("ba", "be")], [1]),
        ("mnli", "predict", [("ba", "be")], None),
        ("ax", "predict", [("ba", "be")], None),
    ],
)
def test_the_official_layouts(
    tmp_path: Path, tokenizer: Tokenizer, name: str, split: str, texts: list[tuple[str, ...]], labels: list[int] | None
) -> None:
    task = find_task(name)
    data = glue_data(task, write_glue(tmp_path), [split])
    sources = {"train": {"train": data.train}, "eval": data.evaluation, "predict": data.prediction}[split]
    assert len(sources) == {("mnli", "eval"): 2, ("mnli", "predict"): 3}.get((name, split), 1)
    for source in sources.values():
        assert source is not None
        assert [cells for _, cells in source.table.read(source.texts)] == texts
        if labels is None:
            assert source.label is None
        else:
            assert labels_of(source, tokenizer, data.labels) == labels


def test_the_tasks_own_folder_is_good_too(tmp_path: Path) -> None:
    folder = write_glue(tmp_path)
    inside, above = (glue_data(TASKS["mnli"], path, ["predict"]) for path in (folder / "MNLI", folder))
    assert list(inside.prediction) == list(above.prediction) == ["test_matched", "test_mismatched", "diagnostic"]
    names = [source.predictions for source in inside.prediction.values()]
    assert names == ["MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"]


def test_the_full_diagnostic_set_is_evaluated_beside_mnli(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = write_glue(tmp_path)
    content = "Lexical Semantics\tDomain\tPremise\tHypothesis\tLabel\n\tNews\tba\tbe\tcontradiction\n"
    (folder / "diagnostic" / "diagnostic-full.tsv").write_text(content)
    for name in ("mnli", "ax"):
        source = glue_data(TASKS[name], folder, ["eval"]).evaluation["diagnostic"]
        assert labels_of(source, tokenizer, TASKS[name].labels) == [2]


def test_names_are_found_as_people_write_them() -> None:
    written = {"MRPC": "mrpc", "SST-2": "sst2", "sts_b": "stsb", "CoLA": "cola", "diagnostic": "ax", "AX": "ax"}
    assert {name: find_task(name).name for name in written} == written


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = write_glue(tmp_path)
    with pytest.raises(UserError, match=r"MRPC: no dev\.tsv, which mrpc \(eval\) needs; found train\.tsv"):
        glue_data(TASKS["mrpc"], folder, ["eval"])
    with pytest.raises(UserError, match=r"no train\.tsv, which rte \(train\) needs; found no \.tsv file"):
        glue_data(TASKS["rte"], tmp_path / "nowhere", ["train"])
    with pytest.raises(UserError, match="ax: has nothing to train on"):
        glue_data(TASKS["ax"], folder, ["train"])
    with pytest.raises(UserError, match=r"squad: no such task; needs one of cola, sst2"):
        find_task("squad")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentails\n", "line 2: the label is 'entails'; needs one of 'ent"),
        ("index\tsentence1\tsentence2\tlabel\n0\ta\tb\n", "line 2: 3 fields, but 4 are needed"),
        ("index\tpremise\tsentence2\tlabel\n0\ta\tb\tentailment\n", "line 1: no column 'sentence1' among .*'premise'"),
        ("index\tsentence1\tsentence2\tlabel\n", "has no examples; needs at least one"),
        ("index\tsentence1\tsentence2\tlabel\n0\ta\tb\t\n", "line 2: no label"),
    ],
)
def test_bad_content_is_named(tmp_path: Path, tokenizer: Tokenizer, content: str, message: str) -> None:
    (tmp_path / "train.tsv").write_text(content)
    with pytest.raises(UserError, match=rf"train\.tsv: {message}"):
        data = glue_data(TASKS["rte"], tmp_path, ["train"])
        labels_of(data.train, tokenizer, data.labels)


def test_a_score_that_is_no_number_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for score in ("nan", "high"):
        (tmp_path / "train.tsv").write_text(f"sentence1\tsentence2\tscore\na\tb\t{score}\n")
        with pytest.raises(UserError, match=rf"line 2: the label is '{score}'; needs a number"):
            labels_of(glue_data(TASKS["stsb"], tmp_path, ["train"]).train, tokenizer, ())


@pytest.mark.parametrize("pair", [True, False])
def test_features_are_those_of_a_loop_over_the_rows(tmp_path: Path, tokenizer: Tokenizer, pair: bool) -> None:
    rng = np.random.default_rng(0)
    words = [token for token in tokenizer.tokens if token.isalpha()]
    lines = [[" ".join(rng.choice(words, size=rng.integers(0, 12))) for _ in range(2)] for _ in range(5000)]
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\tlabel\n" + "".join(f"{a}\t{b}\t{number % 2}\n" for number, (a, b) in enumerate(lines)))
    table = open_table(path)
    features = Encoder(tokenizer, 12, ("0", "1")).features(TextSplit(table, ("a", "b") if pair else ("a",), "label"))
    assert len(features) == 5000
    assert features.columns["labels"].tolist() == [0, 1] * 2500
    for number in (0, 1, 17, 4095, 4096, 4999):
        ids = [tokenizer.backend.encode(text, add_special_tokens=False).ids for text in lines[number]]
        expected, first = join_pair(ids[0], ids[1] if pair else None, tokenizer.cls_id, tokenizer.sep_id, 12)
        assert features.tokens[features.starts[number] : features.starts[number + 1]].tolist() == expected
        assert features.first_segments[number] == first


def test_features_are_cached_by_all_that_they_follow_from(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder, cache = write_glue(tmp_path / "glue"), tmp_path / "cache"
    source = glue_data(TASKS["cola"], folder, ["train"]).train
    assert source is not None
    labels = ("0", "1")

    def caches() -> int:
        return len(list(cache.glob("[0-9a-f]*")))

    first = Encoder(tokenizer, 16, labels, cache)
    assert first.features(source).columns["labels"].tolist() == [1, 0]
    first.features(source)
    assert caches() == 1
    others = [Encoder(tokenizer, 17, labels, cache), Encoder(tokenizer, 16, ("1", "0"), cache)]
    for number, encoder in enumerate(others, 2):
        encoder.features(source)
        assert caches() == number
        assert encoder.fingerprint(source, None) != first.fingerprint(source, None)
    assert len(first.features(source, limit=1)) == 1
    (folder / "CoLA" / "train.tsv").write_text("gj04\t0\t\tba\n")
    changed = glue_data(TASKS["cola"], folder, ["train"]).train
    assert changed is not None
    assert first.features(changed).columns["labels"].tolist() == [0]
    assert caches() == 5


def test_incomplete_lines_of_qqp_are_reported_from_the_cache_too(tmp_path: Path, tokenizer: Tokenizer) -> None:
    header, line = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n", "0\t1\t2\tba\tbe\t1\n"
    (tmp_path / "train.tsv").write_text(header + line * 2500 + '"\tbe\t1\n')
    encoder = Encoder(tokenizer, 16, ("0", "1"), tmp_path / "cache")
    for _ in ("cold", "warm"):
        source = glue_data(TASKS["qqp"], tmp_path, ["train"]).train
        assert source is not None
        features = encoder.features(source)
        assert len(features) == 2500
        (note,) = features.notes
        assert note.endswith("left out 1 incomplete lines, the first is line 2502")


def test_incomplete_lines_of_qqp_are_left_out_only_where_they_are_few(tmp_path: Path, tokenizer: Tokenizer) -> None:
    header, line = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n", "0\t1\t2\tba\tbe\t1\n"
    path = tmp_path / "train.tsv"
    path.write_text(header + line * 2500 + '"\tbe\t1\n')
    assert len(labels_of(glue_data(TASKS["qqp"], tmp_path, ["train"]).train, tokenizer, ("0", "1"))) == 2500
    path.write_text(header + line * 10 + '"\tbe\t1\n')
    with pytest.raises(UserError, match="line 12: not 6 fields"):
        labels_of(glue_data(TASKS["qqp"], tmp_path, ["train"]).train, tokenizer, ("0", "1"))


class FakeSet:
    """What is used of a data set of the package `datasets`."""

    _fingerprint = "print"
    column_names = ("premise", "hypothesis", "label", "idx")
    features = {name: SimpleNamespace() for name in column_names} | {"label": SimpleNamespace(names=["x", "y", "z"])}

    def __iter__(self):
        yield {"premise": "ba", "hypothesis": "be", "label": 2, "idx": 4}
        yield {"premise": "bi", "hypothesis": "bo", "label": -1, "idx": 5}


def test_the_hub_gives_the_same_as_files(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    asked = []

    def load_dataset(name: str, config: str, split: str) -> FakeSet:
        asked.append((name, config, split))
        return FakeSet()

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    data = glue_data(TASKS["mnli"], None, ["train", "predict"])
    assert asked == [("nyu-mll/glue", "mnli", split) for split in ("train", "test_matched", "test_mismatched")]
    assert data.train is not None
    features = Encoder(tokenizer, 16, data.labels).features(data.train, limit=1)
    assert features.columns["labels"].tolist() == [2]
    with pytest.raises(UserError, match=r"glue \[mnli train\]: row 2: no label; needs one in every row"):
        Encoder(tokenizer, 16, data.labels).features(data.train)
    test = data.prediction["test_matched"]
    assert len(Encoder(tokenizer, 16, data.labels).features(test)) == 2
    assert [cells for _, cells in test.table.read([test.index or ""])] == [(4,), (5,)]


def test_the_hub_out_of_reach_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets \(pip install datasets\)"):
        glue_data(TASKS["rte"], None, ["train"])

    def load_dataset(name: str, config: str, split: str) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError, match=r"glue \[rte train\]: cannot be had from the hub \(no network\); check"):
        glue_data(TASKS["rte"], None, ["train"])


@needs_data
@pytest.mark.parametrize("name", [name for name in TASKS if name != "ax"])
def test_every_line_of_the_real_files_is_an_example(name: str) -> None:
    task, folder = TASKS[name], Path(DATA or "") / "glue"
    counts = []
    for files in task.splits.values():
        for file in files.values():
            path = folder / task.folder / file.name
            if not path.is_file():
                continue
            source = file.open(path.parent)
            found = list(source.table.read([*source.texts, *([source.label] if source.label else [])]))
            content = path.read_bytes()
            lines = content.count(b"\n") + (not content.endswith(b"\n"))
            assert len(found) == lines - (file.columns is None)
            assert all(isinstance(cell, str) for _, cells in found for cell in cells)
            if source.label and task.labels:
                assert {cells[-1] for _, cells in found} == set(task.labels)
            counts.append(len(found))
    assert len(counts) >= 2
    assert tuple(counts) == OFFICIAL.get(name, tuple(counts))
