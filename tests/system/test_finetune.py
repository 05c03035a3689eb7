"""The fine-tuning jobs as users start them: on several stages, resumed, with several seeds, from other checkpoints."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from ds_bert.checkpoint.folders import checkpoints
from ds_bert.cli import main
from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.training.log import read_log
from tests.support.jobs import Ended, assert_stays_as_it_is, printed_after_a_death, run_job, without_folder
from tests.support.model_folder import write_bert_folder
from tests.support.refusal import contents

JOB = "pipelines/finetune_glue.py"
GOOD, BAD = ["good", "great", "fine", "nice"], ["bad", "awful", "poor", "sad"]
FILLER = ["film", "the", "was", "a", "story", "it"]


def write_reviews(path: Path, count: int, seed: int, labels: bool = True) -> None:
    """SST-2's layout; a word says the label."""
    chance = random.Random(seed)
    rows = ["sentence\tlabel" if labels else "index\tsentence"]
    for number in range(count):
        label = number % 2
        words = [chance.choice(FILLER) for _ in range(chance.randint(1, 12))] + [chance.choice([BAD, GOOD][label])]
        chance.shuffle(words)
        rows.append(f"{' '.join(words)}\t{label}" if labels else f"{number}\t{' '.join(words)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    write_reviews(folder / "data" / "train.tsv", 64, 1)
    write_reviews(folder / "data" / "dev.tsv", 21, 2)
    write_reviews(folder / "data" / "test.tsv", 13, 3, labels=False)
    write_bert_folder(folder / "model", [*GOOD, *BAD, *FILLER])
    return folder


def words(folder: Path, out: Path, *more: object, **flags: Any) -> list[object]:
    defaults = {
        "model_name_or_path": folder / "model",
        "task_name": "SST-2",
        "data_dir": folder / "data",
        "cache_dir": folder / "cache",
        "output_dir": out,
        "max_steps": 24,
        "learning_rate": 5e-3,
        "max_seq_length": 16,
    }
    given = [(f"--{name}", value) for name, value in (defaults | flags).items() if value is not None]
    return [*(part for pair in given for part in pair), *more]


def run(tmp_path: Path, arguments: list[object], ranks: int = 1, status: int = 0) -> str:
    """Run the job; return what all ranks printed."""
    ended: list[Ended] = run_job(JOB, tmp_path / "printed", arguments, ranks)
    printed = "".join(path.read_text() for path in sorted((tmp_path / "printed").glob("*.txt")))
    assert [end.status for end in ended] == [status] * ranks, printed
    return printed


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "eval_results.json").read_text())


def test_it_learns_on_two_stages_and_writes_a_submission(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    every = ("--do_train", "--do_eval", "--do_predict")
    run(tmp_path, words(folder, out, *every, num_stages=2, gradient_accumulation_steps=2, max_steps=60), ranks=2)
    assert results(out)["accuracy"] == 1.0
    lines = (out / "predictions" / "SST-2.tsv").read_text().splitlines()
    assert lines == ["index\tprediction", *(f"{number}\t{number % 2}" for number in range(13))]
    exported = BertForSequenceClassification.from_pretrained(checkpoints(out)[-1])
    assert exported.config.num_labels == 2


def test_what_was_trained_can_be_measured_and_predicted_elsewhere(folder: Path, tmp_path: Path) -> None:
    run(tmp_path, words(folder, tmp_path / "out", "--do_train", "--do_eval"))
    (checkpoint,) = checkpoints(tmp_path / "out")
    flags = {"model_name_or_path": checkpoint, "num_stages": 2, "per_device_eval_batch_size": 5}
    run(tmp_path / "two", words(folder, tmp_path / "two" / "out", "--do_eval", "--do_predict", **flags), ranks=2)
    assert results(tmp_path / "two" / "out") == pytest.approx(results(tmp_path / "out"), rel=1e-6)


def test_resumed_it_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = {"save_steps": 10, "eval_steps": 7, "lr_scheduler_type": "constant"}
    run(tmp_path, words(folder, whole, "--do_train", "--do_eval", **flags))
    run(tmp_path, words(folder, parts, "--do_train", "--do_eval", **flags, max_steps=10))
    assert checkpoints(parts)[-1].name == "checkpoint-10"
    assert main(["cache", "--cache_dir", str(folder / "cache"), "--clear"]) == 0
    run(tmp_path, words(folder, parts, "--do_train", "--resume", **flags))  # evaluating changes nothing, either
    files = sorted(file.name for file in checkpoints(whole)[-1].glob("*.safetensors"))
    assert files and checkpoints(whole)[-1].name == checkpoints(parts)[-1].name == "checkpoint-24"
    for name in files:
        assert (checkpoints(parts)[-1] / name).read_bytes() == (checkpoints(whole)[-1] / name).read_bytes(), name


def test_replicas_share_the_epochs(folder: Path, tmp_path: Path) -> None:
    seen = []
    for replicas in (1, 2):
        out = tmp_path / str(replicas)
        run(tmp_path, words(folder, out, "--do_train", max_steps=-1, num_train_epochs=2), ranks=replicas)
        (checkpoint,) = checkpoints(out)
        assert checkpoint.name == f"checkpoint-{16 // replicas}"
        seen.append(json.loads((checkpoint / "trainer_state.json").read_text())["examples_seen"])
    assert seen == [2 * 64] * 2


def test_the_best_checkpoint_is_kept_and_training_ends_when_nothing_gets_better(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = {"eval_steps": 4, "early_stopping_patience": 2, "max_steps": 200, "save_total_limit": 1}
    printed = run(tmp_path, words(folder, out, "--do_train", "--do_eval", **flags))
    best, found = json.loads((out / "best.json").read_text()), results(out)
    said = f"eval/accuracy, steps 4 to {best['step'] + 8}; best {best['value']:.4f} at step {best['step']}"
    assert said in printed and (out / "loss.png").is_file()
    steps = [int(path.name.partition("-")[2]) for path in checkpoints(out)]
    assert best["step"] in steps and best["evaluations_since"] == 2
    assert max(steps) == best["step"] + 8 < 200
    run(tmp_path, words(folder, out, "--do_train", "--do_eval", "--resume", **flags))
    assert [int(path.name.partition("-")[2]) for path in checkpoints(out)] == steps, "it had ended"
    assert results(out) == found


def test_the_best_checkpoint_is_measured_and_predicted_with(folder: Path, tmp_path: Path) -> None:
    out, flags = tmp_path / "out", {"eval_steps": 20, "lr_scheduler_type": "constant"}
    run(tmp_path, words(folder, out, "--do_train", "--do_eval", **flags, max_steps=60))
    before = json.loads((out / "best.json").read_text())
    ruin = {**flags, "max_steps": 80, "learning_rate": 1}
    run(tmp_path, words(folder, out, "--do_train", "--do_eval", "--do_predict", "--resume", **ruin))
    last = [entry["eval/accuracy"] for entry in read_log(out) if "eval/accuracy" in entry][-1]
    assert last < before["value"] == results(out)["accuracy"] == 1.0
    right = [f"{number}\t{number % 2}" for number in range(13)]
    submission = out / "predictions" / "SST-2.tsv"
    assert submission.read_text().splitlines()[1:] == right
    submission.unlink()
    run(tmp_path, words(folder, out, "--do_predict", "--resume", **ruin))
    assert submission.read_text().splitlines()[1:] == right


def test_seeds_are_trained_one_after_the_other(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = run(tmp_path, words(folder, out, "--do_train", "--do_eval", "--seeds", 1, 2, max_steps=6))
    assert "over seeds 1, 2" in printed
    found = [results(out / f"seed-{seed}")["accuracy"] for seed in (1, 2)]
    assert results(out)["accuracy"]["values"] == found
    assert results(out)["accuracy"]["mean"] == pytest.approx(sum(found) / 2)


def test_seeds_that_had_ended_are_not_trained_again(folder: Path, tmp_path: Path) -> None:
    out, flags = tmp_path / "out", {"eval_steps": 2, "early_stopping_patience": 1, "learning_rate": 0, "max_steps": 40}
    job = ("--do_train", "--do_eval", "--seeds")
    run(tmp_path, words(folder, out, *job, 1, **flags))
    ended = [path.name for path in checkpoints(out / "seed-1")]
    run(tmp_path, words(folder, out, *job, 1, 2, "--resume", **flags))
    assert [path.name for path in checkpoints(out / "seed-1")] == ended == ["checkpoint-2", "checkpoint-4"]
    assert [path.name for path in checkpoints(out / "seed-2")] == ended
    assert results(out)["seeds"] == [1, 2]


def test_seeds_do_not_overwrite_a_single_run(folder: Path, tmp_path: Path) -> None:
    out, seeds = tmp_path / "out", ("--do_train", "--seeds", 1, 2)
    run(tmp_path, words(folder, out, "--do_train", "--do_eval", max_steps=1))
    before = contents(out)
    printed = run(tmp_path, words(folder, out, *seeds, max_steps=1), status=2)
    assert f"error: {out}: --output_dir holds arguments.json" in printed and contents(out) == before
    run(tmp_path, words(folder, out, *seeds, "--overwrite_output_dir", max_steps=1))
    assert contents(tmp_path / "out.old-1") == before and (out / "seed-2" / "checkpoint-1").is_dir()


def test_a_throughput_run_without_a_folder_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    arguments = words(folder, here, "--do_train", "--do_eval", "--do_predict", num_minibatches=4, eval_steps=2)
    arguments = without_folder(arguments, here, monkeypatch)
    before = contents(here)
    assert "held-out accuracy" in run(tmp_path, arguments)
    assert contents(here) == before


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(), (1, 2)])
def test_a_throughput_run_leaves_a_real_run_as_it_is(folder: Path, tmp_path: Path, seeds: tuple[int, ...]) -> None:
    out = tmp_path / "out"
    flags = ["--do_train", "--do_eval", "--do_predict", *(["--seeds", *seeds] if seeds else [])]
    run(tmp_path, words(folder, out, *flags, max_steps=2))
    if seeds:
        before = contents(out)
        run(tmp_path, words(folder, out, *flags, "--num_minibatches", 4, "--resume", max_steps=2))
        assert contents(out) == before
        beside = tmp_path / "out.throughput"
        found = {str(path.relative_to(beside)) for path in beside.rglob("*.json")}
        assert found == {f"seed-{seed}.throughput/summary.json" for seed in seeds}
        return
    assert_stays_as_it_is(out, lambda more: run(tmp_path, words(folder, out, *flags, *more, max_steps=2)))
    run(tmp_path, words(folder, out, *flags, "--resume", max_steps=4))
    assert [entry["step"] for entry in read_log(out) if "train/loss" in entry] == [1, 2, 4]


def test_a_throughput_run_needs_training(folder: Path, tmp_path: Path) -> None:
    printed = run(tmp_path, words(folder, tmp_path / "out", "--do_eval", num_minibatches=4), status=2)
    assert "error: --num_minibatches measures how fast training is; give --do_train" in printed


def test_a_classifier_of_another_task(folder: Path, tmp_path: Path) -> None:
    three = write_bert_folder(tmp_path / "three", [*GOOD, *BAD, *FILLER], BertForSequenceClassification, num_labels=3)
    flags = {"model_name_or_path": three, "max_steps": 2}
    printed = run(tmp_path, words(folder, tmp_path / "out", "--do_train", **flags), status=2)
    assert "the model's labels are LABEL_0, LABEL_1, LABEL_2, but sst2 needs 0, 1;" in printed
    assert "--drop_classifier" in printed and not (tmp_path / "out").exists()
    run(tmp_path, words(folder, tmp_path / "out", "--do_train", "--drop_classifier", **flags))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"data_dir": "nowhere"}, "nowhere"),
        ({"task_name": "SST-3"}, "SST-3"),
        ({"max_seq_length": 500}, "--max_seq_length is 500, needed is 8 to 64"),
        ({"hidden_dropout_prob": 2}, "--hidden_dropout_prob is 2.0"),
        ({"metric_for_best_model": "beauty"}, "beauty"),
        ({"model_name_or_path": "./missing/"}, "./missing/"),
    ],
)
def test_a_mistake_ends_it_with_one_sentence(
    folder: Path, tmp_path: Path, flags: dict[str, Any], expected: str
) -> None:
    printed = run(tmp_path, words(folder, tmp_path / "out", "--do_train", "--do_eval", **flags), status=2)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and expected in errors[0]
    assert "Traceback" not in printed and not (tmp_path / "out" / "log.jsonl").exists()


def test_nothing_to_do(folder: Path, tmp_path: Path) -> None:
    assert "nothing to do" in run(tmp_path, words(folder, tmp_path / "out"), status=2)


def test_a_resumed_run_remembers_its_best(folder: Path, tmp_path: Path) -> None:
    out, flags = tmp_path / "out", {"eval_steps": 4, "save_steps": 8, "lr_scheduler_type": "constant"}
    run(tmp_path, words(folder, out, "--do_train", "--do_eval", **flags, max_steps=8))
    before = json.loads((out / "best.json").read_text())
    (out / "best.json").unlink()  # as a crash between checkpoint and pointer leaves it
    run(tmp_path, words(folder, out, "--do_train", "--do_eval", "--resume", **flags, max_steps=12, learning_rate=0))
    after = json.loads((out / "best.json").read_text())
    assert (after["step"], after["value"]) == (before["step"], before["value"])
    assert after["evaluations_since"] == before["evaluations_since"] + 1


@pytest.mark.parametrize("order", [["bad", "good", "so-so"], ["SO-SO", "GOOD", "BAD"]])
def test_a_kept_head_keeps_the_meaning_of_its_rows(folder: Path, tmp_path: Path, order: list[str]) -> None:
    """A model that says "good" to everything says so after a step that changes nothing, too, in every file."""
    names = dict(enumerate(order))
    labels = {"id2label": names, "label2id": {name: row for row, name in names.items()}}
    model = write_bert_folder(tmp_path / "model", [*GOOD, *BAD], BertForSequenceClassification, num_labels=3, **labels)
    weights = load_file(model / "model.safetensors")
    weights["classifier.bias"][[name.lower() for name in order].index("good")] = 50.0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    rows = [("nice film", "good"), ("fine story", "good"), ("sad film", "bad"), ("it was", "so-so"), ("great", "good")]
    path = tmp_path / "own.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    files = {f"{split}_file": path for split in ("train", "validation", "test")}
    own = {"task_name": None, "data_dir": None, "model_name_or_path": model, **files}
    flags = own | {"max_steps": 1, "learning_rate": 1e-12}
    printed = run(tmp_path, words(folder, tmp_path / "out", "--do_train", "--do_eval", "--do_predict", **flags))
    found = [name.lower() for name in order]
    assert f"labels: 3 classes: {', '.join(map(repr, found))}; this is the order of the model's head" in printed
    assert results(tmp_path / "out")["accuracy"] == 3 / 5
    predictions = (tmp_path / "out" / "predictions" / "predictions.tsv").read_text().splitlines()
    assert predictions[1:] == [f"{number}\tgood" for number in range(5)]
    (checkpoint,) = checkpoints(tmp_path / "out")
    exported = BertForSequenceClassification.from_pretrained(checkpoint).config
    assert exported.id2label == dict(enumerate(found))
    assert exported.label2id == {name: row for row, name in enumerate(found)}
    if order != sorted(order):
        again = words(folder, tmp_path / "out", "--do_eval", "--resume", "--drop_classifier", **flags)
        sentence = f"{checkpoint}: its head's labels are so-so, good, bad, now they are bad, good, so-so"
        assert sentence in run(tmp_path, again, status=2)


def test_the_lowest_loss_can_choose_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    """It is that of training: cross-entropy of the labels, as what is predicted of them says."""
    out, flags = tmp_path / "out", {"eval_steps": 20, "lr_scheduler_type": "constant", "num_stages": 2}
    by_loss = {"metric_for_best_model": "loss", "per_device_eval_batch_size": 5}
    run(tmp_path, words(folder, out, "--do_train", "--do_eval", **flags, **by_loss, max_steps=40), ranks=2)
    ruin = {**flags, **by_loss, "max_steps": 60, "learning_rate": 1}
    run(tmp_path, words(folder, out, "--do_train", "--do_eval", "--resume", **ruin), ranks=2)
    losses = {entry["step"]: entry["eval/loss"] for entry in read_log(out) if "eval/loss" in entry}
    best = json.loads((out / "best.json").read_text())
    assert losses.keys() == {20, 40, 60} and best["metric"] == "loss" and best["step"] != 60
    assert best["value"] == min(losses.values()) == results(out)["loss"]

    model = BertForSequenceClassification.from_pretrained(out / best["checkpoint"]).eval()
    tokenizer = load_tokenizer(folder / "model")
    total = 0.0
    lines = (folder / "data" / "dev.tsv").read_text().splitlines()[1:]
    for text, label in (line.split("\t") for line in lines):
        ids = [tokenizer.cls_id, *tokenizer.encode([text])[0].tolist()[:14], tokenizer.sep_id]
        with torch.no_grad():
            total += model(input_ids=torch.tensor([ids]), labels=torch.tensor([int(label)])).loss.item()
    assert best["value"] == pytest.approx(total / len(lines), rel=1e-4)


@pytest.mark.slow
def test_a_death_while_another_rank_still_builds_is_noticed(folder: Path, tmp_path: Path) -> None:
    arguments = words(folder, tmp_path / "out", "--do_train", num_stages=2)
    printed = printed_after_a_death(
        "pipelines/finetune_glue.py", tmp_path / "printed", arguments, "ds_bert.training.finetuning.build_engine"
    )
    said = "error: rank 1 (stage 1, replica 0): after step 0: rank 0 (stage 0, replica 0), after step 0, died\n"
    assert printed == said
