"""Multi-task training as users start it: many tasks on stages and replicas, resumed, frozen, and their mistakes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ds_bert.checkpoint.folders import checkpoints
from ds_bert.checkpoint.tensors import TensorFolder
from tests.support.jobs import assert_stays_as_it_is, run_job
from tests.support.many_tasks import RELATIONS, write_tasks

JOB = "pipelines/multitask.py"
SUBMISSIONS = {"MRPC.tsv": 9, "SST-2.tsv": 9, "STS-B.tsv": 9, "MNLI-m.tsv": 9, "MNLI-mm.tsv": 7, "AX.tsv": 4}
"""Every file for the GLUE server, and its examples."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("many"))


def words(folder: Path, out: Path, *more: object, **flags: Any) -> list[object]:
    defaults = {
        "model_name_or_path": folder / "model",
        "tasks": folder / "own.json",
        "data_dir": folder / "glue",
        "cache_dir": folder / "cache",
        "output_dir": out,
        "max_steps": 6,
        "learning_rate": 2e-3,
        "max_seq_length": 24,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
    }
    given = [part for name, value in (defaults | flags).items() for part in (f"--{name}", value)]
    return [*given, *more]


def run(tmp_path: Path, arguments: list[object], ranks: int = 1, status: int = 0) -> str:
    """Run the job; return what all ranks printed."""
    ended = run_job(JOB, tmp_path / "printed", arguments, ranks, timeout=180)
    printed = "".join(path.read_text() for path in sorted((tmp_path / "printed").glob("*.txt")))
    assert [end.status for end in ended] == [status] * ranks, printed
    return printed


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return (tensors := TensorFolder(checkpoint)).read_all(tensors.names())


def losses(out: Path) -> list[float]:
    lines = (out / "log.jsonl").read_text().splitlines()
    return [entry["train/loss"] for entry in map(json.loads, lines) if "train/loss" in entry]


@pytest.mark.slow
def test_a_throughput_run_leaves_a_real_run_as_it_is(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = words(folder, out, "--do_train", "--do_eval", max_steps=2)
    run(tmp_path, flags)
    assert_stays_as_it_is(out, lambda more: run(tmp_path, [*flags, *more]))
    run(tmp_path, [*flags, "--resume", "--max_steps", 4])
    assert len(losses(out)) == 4


def test_many_tasks_on_two_stages(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    every = ("--do_train", "--do_eval", "--do_predict", "--use_mt_uncertainty")
    flags = {"conditional": "base", "freeze_encoder_layers": "0-1", "num_stages": 2, "gradient_accumulation_steps": 2}
    printed = run(tmp_path, words(folder, out, *every, **flags), ranks=2)
    assert "seen:   sst2 " in printed
    results = json.loads((out / "eval_results.json").read_text())
    names = ["sst2", "stsb", "mrpc", "mnli", "reviews"]
    assert results["average"] == pytest.approx(sum(results[name] for name in names) / 5)
    assert results["reviews"] == results["reviews_macro_f1"] and results["sst2"] == results["sst2_accuracy"]
    genres = [results["mnli_matched_accuracy"], results["mnli_mismatched_accuracy"]]
    assert results["mnli"] == pytest.approx(sum(genres) / 2) and "mnli_diagnostic_matthews_correlation" in results
    losses = [results[f"{name}_loss"] for name in names]
    assert results["loss"] == pytest.approx(sum(losses) / 5) and min(losses) > 0
    genres = [results["mnli_matched_loss"], results["mnli_mismatched_loss"]]
    assert results["mnli_loss"] == pytest.approx(sum(genres) / 2)
    for name, count in SUBMISSIONS.items():
        header, *rows = (out / "predictions" / name).read_text().splitlines()
        assert header == "index\tprediction" and len(rows) == count
        assert name[:2] not in ("MN", "AX") or {row.split("\t")[1] for row in rows} <= set(RELATIONS)
    own = (out / "predictions" / "reviews" / "predictions.tsv").read_text().splitlines()
    assert {line.split("\t")[1] for line in own[1:]} <= {"positive", "negative"}
    assert (out / "scores.png").read_bytes()[:4] == b"\x89PNG"
    seen = json.loads((out / "data_seen.json").read_text())
    assert seen.keys() == {*names, "all"} and 0 < seen["all"] < 1
    assert json.loads((out / "best.json").read_text())["metric"] == "average"
    assert any("train/stsb_loss" in line for line in (out / "log.jsonl").read_text().splitlines())

    before, after = weights(folder / "model"), weights(checkpoints(out)[-1])
    frozen = ("bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1.")
    for name, value in after.items():
        old = before.get(name.removeprefix("bert."))
        if name.startswith(frozen):
            assert old is not None and torch.equal(value, old), name
        elif old is not None and not name.endswith("key.bias"):
            assert not torch.equal(value, old), name


@pytest.mark.parametrize("begins", ["published", "pretrained"])
def test_the_last_layer_begins_afresh_or_as_it_was(folder: Path, tmp_path: Path, begins: str) -> None:
    """And a run that goes on, or starts from its checkpoint, has what was trained, whatever it began as."""
    out, flags = tmp_path / "out", {"conditional": "base", "conditional_last_layer": begins, "learning_rate": 0}
    printed = run(tmp_path, words(folder, out, "--do_train", **flags, max_steps=1))
    before, after = weights(folder / "model"), weights(checkpoints(out)[-1])
    of_last = [name for name in before if name.startswith(f"encoder.layer.{layers(folder) - 1}.")]
    assert of_last and ("begins with fresh weights, as in CA-MTL's code" in printed) == (begins == "published")
    for name, value in before.items():
        if name.endswith("weight") and "norm" not in name.lower() and f"bert.{name}" in after:
            is_as_before = torch.equal(after[f"bert.{name}"], value)
            assert is_as_before == (name not in of_last or begins == "pretrained"), name
    flags = {"model_name_or_path": checkpoints(out)[-1], "learning_rate": 0, "max_steps": 1}
    again = words(folder, tmp_path / "again", "--do_train", **flags)
    assert "begins with fresh weights, as" not in run(tmp_path / "two", again)
    kept = weights(checkpoints(tmp_path / "again")[-1])
    assert all(torch.equal(kept[name], value) for name, value in after.items())


def layers(folder: Path) -> int:
    return json.loads((folder / "model" / "config.json").read_text())["num_hidden_layers"]


def test_a_checkpoint_is_measured_elsewhere(folder: Path, tmp_path: Path) -> None:
    """Conditional modules and tasks are the checkpoint's, whatever the cut."""
    out = tmp_path / "out"
    run(tmp_path, words(folder, out, "--do_train", "--do_eval", conditional="large", max_steps=3))
    (checkpoint,) = checkpoints(out)
    two = {"model_name_or_path": checkpoint, "num_stages": 2}
    run(tmp_path / "two", words(folder, tmp_path / "two" / "out", "--do_eval", **two), ranks=2)
    found, expected = (json.loads((path / "eval_results.json").read_text()) for path in (tmp_path / "two" / "out", out))
    assert found == pytest.approx(expected, abs=1e-6)
    fewer = words(folder, tmp_path / "three", "--do_eval", model_name_or_path=checkpoint, tasks="SST-2")
    assert "needed are the same tasks" in run(tmp_path, fewer, status=2)


def test_decoders_keep_the_meaning_of_their_rows(folder: Path, tmp_path: Path) -> None:
    """Declared in another order, the labels of a task are matched by name; a resumed run keeps those it began with."""
    out, every = tmp_path / "out", ("--do_train", "--do_eval", "--do_predict")
    run(tmp_path, words(folder, out, *every, learning_rate=1e-12))
    (checkpoint,) = checkpoints(out)
    *names, own = json.loads((folder / "own.json").read_text())
    assert own["labels"] == ["positive", "negative"]
    (folder / "turned.json").write_text(json.dumps([*names, own | {"labels": ["NEGATIVE", "Positive"]}]))
    flags = {"model_name_or_path": checkpoint, "tasks": folder / "turned.json", "learning_rate": 1e-12}
    printed = run(tmp_path, words(folder, tmp_path / "again", *every, **flags), status=2)
    assert "line 2: the label is 'negative'; needs one of 'Positive', 'NEGATIVE'" in printed
    (folder / "turned.json").write_text(json.dumps([*names, own | {"labels": ["negative", "positive"]}]))
    printed = run(tmp_path, words(folder, tmp_path / "again", *every, **flags))
    assert "reviews: labels: 2 classes: 'positive', 'negative'; this is the order of the model's head" in printed
    results = [json.loads((path / "eval_results.json").read_text()) for path in (out, tmp_path / "again")]
    assert results[0] == pytest.approx(results[1], abs=1e-6)
    files = [(path / "predictions" / "reviews" / "predictions.tsv").read_text() for path in (out, tmp_path / "again")]
    assert files[0] == files[1]
    run(tmp_path, words(folder, tmp_path / "again", "--do_eval", "--resume", **flags))
    assert json.loads((tmp_path / "again" / "eval_results.json").read_text()) == pytest.approx(results[1], abs=1e-6)
    anew = words(folder, tmp_path / "again", "--do_eval", "--resume", "--drop_classifier", **flags)
    printed = run(tmp_path, anew, status=2)
    assert "; positive, negative, now they are 0, 1; " in printed and "; negative, positive; needed is" in printed


def test_other_tasks_begin_afresh(folder: Path, tmp_path: Path) -> None:
    """And an epoch of tasks in turn is as many steps as each one's 24 examples fill."""
    run(tmp_path, words(folder, tmp_path / "out", "--do_train", conditional="base", max_steps=1))
    (checkpoint,) = checkpoints(tmp_path / "out")
    (tmp_path / "two.txt").write_text("SST-2\nMRPC\n")
    flags = {"model_name_or_path": checkpoint, "tasks": tmp_path / "two.txt", "per_device_train_batch_size": 16}
    epoch = {"max_steps": -1, "num_train_epochs": 1, "output_dir": tmp_path / "two"}
    printed = run(tmp_path, words(folder, tmp_path, "--do_train", "--drop_classifier", **flags, **epoch))
    assert "has no conditional.task_embedding.weight; these start with fresh weights" in printed
    assert [path.name for path in checkpoints(tmp_path / "two")] == ["checkpoint-4"]


def test_resumed_it_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = {"conditional": "base", "lr_scheduler_type": "constant", "save_steps": 3, "warmup_ratio": 0.0}
    run(tmp_path, words(folder, whole, "--do_train", "--use_mt_uncertainty", **flags))
    run(tmp_path, words(folder, parts, "--do_train", "--use_mt_uncertainty", **flags, max_steps=3))
    run(tmp_path, words(folder, parts, "--do_train", "--use_mt_uncertainty", "--resume", **flags))
    for file in checkpoints(whole)[-1].glob("*.safetensors"):
        assert (checkpoints(parts)[-1] / file.name).read_bytes() == file.read_bytes()
    assert (parts / "data_seen.json").read_text() == (whole / "data_seen.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["uncertainty", "uniform", "proportional", "sequential"])
def test_replicas_train_on_the_same_examples(folder: Path, tmp_path: Path, sampling: str) -> None:
    flags = {
        "conditional": "base",
        "task_sampling": sampling,
        "hidden_dropout_prob": 0,
        "attention_probs_dropout_prob": 0,
    }
    one, two = tmp_path / "one", tmp_path / "two"
    run(tmp_path, words(folder, one, "--do_train", **flags, gradient_accumulation_steps=2))
    run(tmp_path, words(folder, two, "--do_train", **flags), ranks=2)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert (one / "data_seen.json").read_text() == (two / "data_seen.json").read_text()


OWN = {"name": "x", "train_file": "own_train.csv", "validation_file": "own_dev.csv"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"tasks": "SST-3"}, "no task 'SST-3' is known"),
        ({"tasks": "CoLA"}, "has no folder CoLA"),
        ({"freeze_encoder_layers": "0-4"}, "needed is 0-N with N from 0 to 3"),
        ({"metric_for_best_model": "beauty"}, "beauty"),
        ({"tasks": "STS-B", "task_sampling": "uncertainty"}, "only regressions (stsb)"),
        ([{**OWN, "labels": ["positive", "neutral"]}], "line 2: the label is 'negative'; needs one of 'positive', "),
        ([{**OWN, "train_file": "one_label.csv", "labels": ["positive", "negative"]}], "have the label 'positive'"),
    ],
)
def test_a_mistake_ends_it_with_one_sentence(folder: Path, tmp_path: Path, flags: Any, expected: str) -> None:
    (folder / "one_label.csv").write_text("text,label\na,positive\nb,positive\n")
    if isinstance(flags, list):
        (folder / "wrong.json").write_text(json.dumps(flags))
        flags = {"tasks": folder / "wrong.json"}
    printed = run(tmp_path, words(folder, tmp_path / "out", "--do_train", "--do_eval", **flags), status=2)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and expected in errors[0], printed
    assert "Traceback" not in printed and not (tmp_path / "out").exists()
