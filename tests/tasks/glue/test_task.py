"""GLUE tasks from files to submissions."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ds_bert.data.encoding import train_vocabulary
from ds_bert.data.vocabulary import Tokenizer, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.tasks.glue.benchmark import TASKS
from ds_bert.tasks.task import Outputs, Split
from tests.support.benchmarks import glue

DATA = os.environ.get("DS_BERT_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="DS_BERT_DATA names no folder of data")
SUBMISSIONS = ["CoLA", "SST-2", "MRPC", "STS-B", "MNLI-m", "MNLI-mm", "QNLI", "QQP", "RTE", "WNLI", "AX"]
TEXT = [["The quick brown foxes jumped over lazily sleeping dogs.", "Nobody saw who wrote it."] * 3] * 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_vocabulary(lambda: iter(TEXT), 120)


def said(*predictions: int, classes: int = 2) -> list[Outputs]:
    """Outputs of a model that predicts these classes."""
    return [{"logits": 3.0 * np.eye(classes, dtype=np.float32)[number]} for number in predictions]


def write_rte(folder: Path) -> Path:
    folder.mkdir()
    lines = ["0\twho saw\tnobody saw\tnot_entailment", "1\twho\tthe dogs\tentailment", "2\tit\tfoxes\tentailment"]
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *lines]) + "\n")
    (folder / "test.tsv").write_text("index\tsentence1\tsentence2\n5\twho\tit\n7\tit\twho\n6\tit\tit\n")
    return folder


def test_a_task_from_its_files(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = write_rte(tmp_path / "RTE")
    task = glue("rte", tmp_path, tokenizer, 16, splits=("train", "eval", "predict"))
    assert (task.name, task.head, task.best_metric) == ("rte", "sequence-classification", "accuracy")
    assert task.config == {
        "num_labels": 2,
        "id2label": {0: "entailment", 1: "not_entailment"},
        "label2id": {"entailment": 0, "not_entailment": 1},
        "problem_type": "single_label_classification",
        "finetuning_task": "rte",
    }
    assert task.train is not None
    batch = task.train.batch(0, np.array([2, 0]))
    assert batch["labels"].tolist() == [0, 1]
    labels = {"labels": torch.from_numpy(batch["labels"])}
    loss, _ = task.objective.forward({"logits": torch.zeros(2, 2)}, labels, task.objective.counts(labels))
    assert loss.item() == pytest.approx(np.log(2))
    assert task.evaluation["validation"].measure is not None
    assert task.evaluation["validation"].measure(said(1, 1, 0)) == {"accuracy": pytest.approx(2 / 3)}
    test = task.prediction["test"]
    assert test.measure is None
    assert "labels" not in test.examples.batch(0, np.arange(3))
    assert test.write is not None
    (path,) = test.write(said(0, 1, 1), tmp_path / "out")
    assert path == tmp_path / "out" / "RTE.tsv"
    assert path.read_text() == "index\tprediction\n5\tentailment\n7\tnot_entailment\n6\tnot_entailment\n"
    with pytest.raises(ValueError, match="shorter"):
        test.write(said(0, 1), tmp_path / "out")
    assert glue("rte", folder, tokenizer, 16, splits=["predict"]).train is None


def test_a_trained_models_order_of_labels_is_kept(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_rte(tmp_path / "RTE")
    names = ["not_entailment", "entailment"]
    task = glue("rte", tmp_path, tokenizer, 16, splits=["eval", "predict"], label_names=names)
    assert task.config["label2id"] == {"not_entailment": 0, "entailment": 1}
    validation, test = task.evaluation["validation"], task.prediction["test"]
    assert validation.measure is not None and test.write is not None
    assert validation.measure(said(0, 1, 1)) == {"accuracy": 1.0}
    assert "7\tnot_entailment\n" in test.write(said(1, 0, 0), tmp_path)[0].read_text()
    with pytest.raises(UserError, match="the model's labels are a, b, but rte needs entailment, not_entailment"):
        glue("rte", tmp_path, tokenizer, 16, label_names=["a", "b"])


@pytest.mark.parametrize(
    ("name", "names", "labels"),
    [
        ("rte", ["Not_Entailment", "ENTAILMENT"], ("not_entailment", "entailment")),
        ("rte", ["LABEL_0", "LABEL_1"], ("entailment", "not_entailment")),
        ("rte", ["LABEL_0", "LABEL_1", "LABEL_2"], None),
        ("wnli", ["NEGATIVE", "POSITIVE"], ("0", "1")),
        ("wnli", ["1", "0"], ("1", "0")),
    ],
)
def test_names_that_models_have_for_official_labels(
    tmp_path: Path, tokenizer: Tokenizer, name: str, names: list[str], labels: tuple[str, ...] | None
) -> None:
    folder = write_rte(tmp_path / "RTE")
    if labels is None:
        with pytest.raises(UserError, match=r"the model's labels are LABEL_0, .* but rte needs entailment"):
            glue(name, folder, tokenizer, 16, splits=["predict"], label_names=names)
    else:
        task = glue(name, folder, tokenizer, 16, splits=["predict"], label_names=names)
        assert tuple(task.config["id2label"].values()) == labels


def test_scores_are_numbers_within_bounds(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = "sentence1\tsentence2\tscore\nit\twho\t3.800\nwho\tit\t0.5\n"
    (tmp_path / "train.tsv").write_text(rows)
    (tmp_path / "dev.tsv").write_text(rows)
    (tmp_path / "test.tsv").write_text("index\tsentence1\tsentence2\n" + "".join(f"{n}\tit\twho\n" for n in range(3)))
    task = glue("stsb", tmp_path, tokenizer, 16, splits=["train", "eval", "predict"])
    assert (task.config["num_labels"], task.config["problem_type"]) == (1, "regression")
    assert task.train is not None
    labels = task.train.batch(0, np.arange(2))["labels"]
    assert labels.dtype == np.float32
    assert labels.tolist() == [np.float32(3.8), 0.5]
    assert task.objective.regression
    assert task.evaluation["validation"].measure is not None
    measures = task.evaluation["validation"].measure([{"logits": np.array([v], np.float32)} for v in (9.0, -1.0)])
    assert measures == pytest.approx({"pearson": 1.0, "spearmanr": 1.0, "combined_score": 1.0})
    assert task.prediction["test"].write is not None
    outputs = [{"logits": np.array([value], dtype=np.float32)} for value in (-0.2, 3.14159, 5.7)]
    (path,) = task.prediction["test"].write(outputs, tmp_path)
    assert path.name == "STS-B.tsv"
    assert path.read_text() == "index\tprediction\n0\t0.000\n1\t3.142\n2\t5.000\n"


def test_own_data_from_files_of_three_kinds(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "train.csv").write_text('text,label\n"who, it",spam\nit,ham\nfoxes,"say ""hi"""\n')
    (tmp_path / "dev.jsonl").write_text(json.dumps({"label": "ham", "text": "it"}) + "\n")
    (tmp_path / "test.tsv").write_text("id\ttext\nx1\tit\nx2\twho\n")
    files = {
        "train_file": tmp_path / "train.csv",
        "validation_file": tmp_path / "dev.jsonl",
        "test_file": tmp_path / "test.tsv",
    }
    task = glue(None, None, tokenizer, 16, splits=["train", "eval", "predict"], **files)
    assert task.config["id2label"] == {0: "ham", 1: 'say "hi"', 2: "spam"}
    assert "finetuning_task" not in task.config
    assert task.objective.num_labels == 3
    validation, test = task.evaluation["validation"], task.prediction["test"]
    assert validation.measure is not None and test.write is not None
    assert validation.measure(said(0, classes=3))["accuracy"] == 1.0
    assert len(test.examples) == 2
    (path,) = test.write(said(2, 0, classes=3), tmp_path)
    assert path.name == "predictions.tsv"
    assert path.read_text() == "index\tprediction\nx1\tspam\nx2\tham\n"
    only = glue(None, None, tokenizer, 16, splits=["predict"], **files)
    assert only.config == task.config
    assert (only.train, only.evaluation, only.fingerprint) == (None, {}, "")


def test_own_numbers_are_written_as_they_are(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "train.csv").write_text("text,label\nit,-12.5\nwho,3\n")
    (tmp_path / "test.csv").write_text("text\nit\n")
    files = {"train_file": tmp_path / "train.csv", "test_file": tmp_path / "test.csv"}
    task = glue(None, None, tokenizer, 16, splits=["train", "predict"], **files)
    assert task.best_metric == "combined_score"
    assert task.prediction["test"].write is not None
    (path,) = task.prediction["test"].write([{"logits": np.array([-12.25], dtype=np.float32)}], tmp_path)
    assert path.read_text() == "index\tprediction\n0\t-12.25\n"


class OwnSet(list):
    """Stands for a data set of the package `datasets`: rows of text and class."""

    _fingerprint = "print"
    column_names = ("text", "label")
    features = {"text": SimpleNamespace(), "label": SimpleNamespace(names=["good", "bad"])}


def test_own_data_from_the_hub(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, split: str) -> OwnSet:
        asked.append((name, config, split))
        return OwnSet({"text": "it", "label": number} for number in (0, 1, 0))

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    task = glue(None, None, tokenizer, 16, splits=["eval"], dataset_name="someone/texts")
    assert asked == [("someone/texts", None, "train"), ("someone/texts", None, "validation")]
    assert task.config["id2label"] == {0: "bad", 1: "good"}
    assert task.evaluation["validation"].measure is not None
    assert task.evaluation["validation"].measure(said(1, 0, 1))["accuracy"] == 1.0


def test_limits_and_fingerprint(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_rte(tmp_path / "RTE")
    limits = {"max_train_samples": 1, "max_eval_samples": 2, "max_predict_samples": 2}
    cache = tmp_path / "cache"
    task = glue("rte", tmp_path, tokenizer, 16, splits=["train", "eval", "predict"], cache_dir=cache, **limits)
    assert task.train is not None
    assert (len(task.train), len(task.evaluation["validation"].examples)) == (1, 2)
    assert task.prediction["test"].write is not None
    assert len(task.prediction["test"].write(said(0, 0), tmp_path)[0].read_text().splitlines()) == 3
    assert len(list(cache.glob("[0-9a-f]*"))) == 3
    prints = {glue("rte", tmp_path, tokenizer, length, splits=["train"]).fingerprint for length in (16, 16, 17)}
    assert len(prints | {task.fingerprint}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": None}, "nothing says where the data are; needs one of --task_name"),
        ({"train_file": Path("a.csv")}, "--task_name and --train_file and others says"),
        ({"name": None, "train_file": Path("a.csv"), "folder": Path()}, "--data_dir . without a GLUE task"),
        ({"max_seq_length": 3}, "--max_seq_length 3: too short"),
        ({"max_eval_samples": 0}, "--max_eval_samples 0: needs at least 1"),
        ({"splits": ["predict"], "max_predict_samples": 1, "name": "mrpc"}, "no test.tsv"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, options: dict[str, object], message: str
) -> None:
    write_rte(tmp_path / "RTE")
    given: dict = {"name": "rte", "folder": tmp_path if options.get("name", "rte") else None, "tokenizer": tokenizer}
    with pytest.raises(UserError, match=message):
        glue(**(given | options))


def test_every_submission_has_the_servers_name() -> None:
    found = [file.submission for task in TASKS.values() for file in task.splits["predict"].values()]
    assert sorted(found) == sorted(f"{name}.tsv" for name in SUBMISSIONS)


def outputs_of(split: Split, classes: int) -> list[Outputs]:
    rng = np.random.default_rng(0)
    return [{"logits": rng.normal(size=classes).astype(np.float32)} for _ in range(len(split.examples))]


@needs_data
@pytest.mark.parametrize("name", TASKS)
def test_real_files_become_tasks_and_submissions(tmp_path: Path, name: str) -> None:
    data = Path(DATA or "")
    folder = data / "glue" / TASKS[name].folder
    tokenizer = load_tokenizer(data / "vocab" / "bert-base-uncased")
    splits = [
        split
        for split, files in TASKS[name].splits.items()
        if files and all((folder / file.name).is_file() for file in files.values())
    ]
    task = glue(
        name, data / "glue", tokenizer, 64, splits=splits, max_train_samples=50, max_eval_samples=50, cache_dir=tmp_path
    )
    classes = task.config["num_labels"]
    for split in task.evaluation.values():
        assert split.measure is not None
        assert task.best_metric in split.measure(outputs_of(split, classes))
        batch = split.examples.batch(0, np.arange(10))
        assert batch["input_ids"][:, 0].tolist() == [tokenizer.cls_id] * 10
        assert tokenizer.unk_id not in batch["input_ids"][:, :4]
        assert set(batch["token_type_ids"].ravel().tolist()) == ({0} if name in ("cola", "sst2") else {0, 1})
    for split in task.prediction.values():
        assert split.write is not None
        (path,) = split.write(outputs_of(split, classes), tmp_path / "out")
        header, *rows = path.read_text().splitlines()
        (test,) = TASKS[name].splits["predict"].values()
        lines = (folder / test.name).read_text(encoding="utf-8").split("\n")
        indices = [line.split("\t")[0] for line in lines[1:] if line]
        assert header == "index\tprediction"
        assert [row.split("\t")[0] for row in rows] == indices


def test_the_short_form_builds_the_same(tmp_path: Path, tokenizer: Tokenizer) -> None:
    from ds_bert.tasks.glue import glue_task as in_short

    path = tmp_path / "train.csv"
    path.write_text("text,label\nNobody saw it,no\nThe foxes jumped,yes\n", encoding="utf-8")
    found = in_short(None, None, tokenizer, 16, ("train",), train_file=path)
    whole = glue(None, None, tokenizer, 16, splits=("train",), train_file=path)
    assert found.train is not None and found.fingerprint == whole.fingerprint and found.config == whole.config
