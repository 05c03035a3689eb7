"""A run that is resumed with other flags: refused, said in the block before its first step, or the same to the bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ds_bert.checkpoint.tensors import TensorFolder
from ds_bert.training.log import read_log
from tests.support.jobs import pretrain, run_job
from tests.support.many_tasks import write_tasks
from tests.support.refusal import Job, the_sentence
from tests.support.text import prepare_data, write_model

FLAGS: dict[str, Any] = {
    "max_seq_length": 32, "max_predictions_per_seq": 5, "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2, "learning_rate": 3e-3, "warmup_steps": 1, "max_steps": 4, "save_steps": 2,
    "logging_steps": 1,
}  # fmt: skip


def words_of(flags: dict[str, Any]) -> list[object]:
    return [part for name, value in flags.items() for part in (f"--{name}", value)]


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    folders = TensorFolder(checkpoint), TensorFolder(checkpoint, "optimizer")
    return {name: folder.read(name) for folder in folders for name in folder.names()}


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a model, and ``out`` of a pre-training of four steps, dropout included."""
    folder = tmp_path_factory.mktemp("changes")
    prepare_data(folder)
    write_model(folder / "bert.json")
    flags = FLAGS | {"config_name": folder / "bert.json", "train_path": folder / "data", "output_dir": folder / "out"}
    assert pretrain(folder / "printed", words_of(flags))[0].status == 0
    return folder


def halfway(left_alone: Path, out: Path) -> Path:
    """What the run had left had it ended after two steps."""
    shutil.copytree(left_alone / "out", out, ignore=shutil.ignore_patterns("checkpoint-4", "tensorboard"))
    (out / "latest").write_text("checkpoint-2\n")
    return out


def resume(left_alone: Path, out: Path, flags: dict[str, Any]) -> tuple[str, list[str]]:
    """Go on halfway with other flags; return the line that says from where, and those that say what has changed."""
    model = {"config_name": left_alone / "bert.json", "train_path": left_alone / "data", "output_dir": out}
    printed = out.parent / "printed"
    (ended,) = pretrain(printed, [*words_of(FLAGS | model | flags), "--resume"])
    text = "".join(path.read_text() for path in sorted(printed.glob("*.txt")))
    assert ended.status == 0, text
    (origin,) = [line for line in text.splitlines() if line.startswith("resume: ")]
    return origin, [line for line in text.splitlines() if line.startswith("changed: ")]


def test_what_is_silent_changes_no_bit(left_alone: Path, tmp_path: Path) -> None:
    out = halfway(left_alone, tmp_path / "out")
    silent = {
        "logging_steps": 2, "eval_steps": 3, "save_steps": 1, "save_async": True, "save_total_limit": 2,
        "per_device_eval_batch_size": 3, "gradient_checkpointing": True, "max_skipped_steps": 3, "transport": "gloo",
        "trace_steps": "3-4", "profile_steps": "4", "peak_tflops": 1.5, "disable_tqdm": True, "ddp_timeout": 100,
        "heartbeat_timeout": 20, "start_timeout": 60, "initial_scale_power": 8,
    }  # fmt: skip
    origin, changed = resume(left_alone, out, silent)
    assert origin == f"resume: going on from {out / 'checkpoint-2'}" and changed == []
    ours, theirs = tensors(out / "checkpoint-4"), tensors(left_alone / "out" / "checkpoint-4")
    assert ours.keys() == theirs.keys() and any(name.startswith("exp_avg_sq/") for name in ours)
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def test_what_may_change_is_said(left_alone: Path, tmp_path: Path) -> None:
    out = halfway(left_alone, tmp_path / "out")
    (tmp_path / "ds.json").write_text(
        json.dumps({"optimizer": {"params": {"lr": 1e-3, "eps": 1e-6}}, "bf16": {"enabled": True}})
    )
    flags = {
        "deepspeed_config": tmp_path / "ds.json", "learning_rate": 1e-3, "lr_scheduler_type": "constant",
        "warmup_steps": 0, "warmup_ratio": 0.25, "weight_decay": 0.1, "max_grad_norm": 0.5, "max_steps": 5,
        "num_train_epochs": 7, "schedule": "2bw", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4,
    }  # fmt: skip
    _, changed = resume(left_alone, out, flags)
    assert sorted(changed) == [
        f"changed: --{text}, from step 2 on"
        for text in (
            "adam_epsilon 1e-08 → 1e-06", "bf16 false → true", "learning_rate 0.003 → 0.001",
            "lr_scheduler_type linear → constant", "max_grad_norm 1.0 → 0.5", "max_steps 4 → 5",
            "num_train_epochs 3.0 → 7.0", "per_device_train_batch_size 2 → 1", "schedule 1f1b → 2bw",
            "warmup_ratio 0.0 → 0.25", "warmup_steps 1 → 0", "weight_decay 0.01 → 0.1",
        )
    ]  # fmt: skip
    rates = {entry["step"]: entry["train/learning_rate"] for entry in read_log(out) if "train/learning_rate" in entry}
    before = {entry["step"]: entry["train/learning_rate"] for entry in read_log(left_alone / "out")
              if "train/learning_rate" in entry}  # fmt: skip
    assert rates == {1: before[1], 2: before[2], 3: 1e-3, 4: 1e-3, 5: 1e-3}


@pytest.mark.parametrize(
    ("flags", "config", "said"),
    [
        ({"seed": 7}, {}, "--seed 42, now 7; go on with --seed 42, or begin anew in another --output_dir"),
        ({"max_seq_length": 40}, {}, "--max_seq_length 32, now 40; go on with --max_seq_length 32"),
        ({"mlm_probability": 0.2}, {}, "--mlm_probability 0.15, now 0.2"),
        ({"whole_word_mask": True}, {}, "--whole_word_mask False, now True; go on with --whole_word_mask false"),
        ({"optim": "lamb"}, {}, "--optim adamw, now lamb"),
        ({}, {"optimizer": {"type": "Lamb"}}, "--optim adamw, now lamb"),
        ({}, {"optimizer": {"params": {"betas": [0.8, 0.999]}}}, "--adam_beta1 0.9, now 0.8"),
        ({"adam_beta2": 0.98}, {}, "--adam_beta2 0.999, now 0.98"),
        ({}, {"optimizer": {"params": {"bias_correction": False}}}, "--adam_bias_correction True, now False"),
        ({"layerwise_lr_decay": 0.9}, {}, "--layerwise_lr_decay 1.0, now 0.9"),
        ({"gradient_accumulation_steps": 3}, {}, "global batches of 4, now 2 examples x 3 micro-batches"),
        ({"config_name": "other.json"}, {}, "hidden_dropout_prob 0.1, now it is 0.3; go on with the model it began"),
    ],
)
def test_what_must_stay_is_refused(
    left_alone: Path, job: Job, flags: dict[str, Any], config: dict[str, Any], said: str
) -> None:
    fields = json.loads((job.folder / "bert.json").read_text())
    job.write("other.json", fields | {"hidden_dropout_prob": 0.3})
    halfway(left_alone, job.folder / "out")
    words = words_of(flags | ({"deepspeed_config": job.write("ds.json", config)} if config else {}))
    job.arguments = {**job.arguments, **FLAGS}
    sentence = job.refuse(*words, "--resume")
    assert sentence.startswith(f"error: {job.folder / 'out' / 'checkpoint-2'}: was written ") and said in sentence


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Flags of a fine-tuning that has ended after two steps."""
    folder = tmp_path_factory.mktemp("texts")
    model = write_tasks(folder / "tasks") / "model"
    rows = ["text,label", *(f"{'good' if number % 2 else 'bad'} film,{number % 2}" for number in range(24))]
    (folder / "own.csv").write_text("\n".join(rows) + "\n")
    flags = {
        "model_name_or_path": model, "train_file": folder / "own.csv", "output_dir": folder / "out", "do_train": True,
        "max_seq_length": 16, "cache_dir": folder / "cache", "max_steps": 2,
    }  # fmt: skip
    (ended,) = run_job("pipelines/finetune_glue.py", folder / "printed", words_of(flags))
    assert ended.status == 0
    return flags


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"length_window": 1}, "was written with --length_window 4, now 1"),
        ({"hidden_dropout_prob": 0.3}, "was written by a model with hidden_dropout_prob 0.1, now it is 0.3"),
        ({"max_train_samples": 12}, "was written on other training data"),
    ],
)
def test_fine_tuning_is_refused(texts: dict[str, Any], tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    words = words_of(texts | changes)
    (ended,) = run_job("pipelines/finetune_glue.py", tmp_path / "printed", [*words, "--resume"])
    printed = "".join(path.read_text() for path in sorted((tmp_path / "printed").glob("*.txt")))
    assert said in the_sentence(ended.status, printed[printed.index("error: ") :])


def test_measuring_alone_says_nothing_of_training(texts: dict[str, Any], tmp_path: Path) -> None:
    changes = {"do_train": False, "do_eval": True, "validation_file": texts["train_file"], "learning_rate": 1.0}
    words = words_of({name: value for name, value in (texts | changes).items()})
    (ended,) = run_job("pipelines/finetune_glue.py", tmp_path / "printed", [*words, "--resume"])
    printed = "".join(path.read_text() for path in sorted((tmp_path / "printed").glob("*.txt")))
    assert ended.status == 0 and "resume: going on from" in printed and "changed:" not in printed, printed
