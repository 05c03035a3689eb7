"""One process runs one job after another, whatever became of the one before, and each gives what it gives alone."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.many_tasks import write_tasks as write_many_tasks
from tests.support.session import MANNERS, Run, numbers, run_session
from tests.support.squad import random_squad
from tests.support.task_folder import write_tasks
from tests.system.test_few_shot import write_leopard

SMALL = {"max_seq_length": 32, "learning_rate": 3e-3, "logging_steps": 1, "per_device_train_batch_size": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model/`` and ``glue/`` of its words, ``own.json``, a SQuAD file, and tasks to meta-train on."""
    folder = write_many_tasks(tmp_path_factory.mktemp("sessions"))
    random_squad(folder / "squad.json")
    write_tasks(folder / "tasks", folder / "model", count=6)
    return folder


def pretraining(name: str, prepared: Path, model: Path, **more: Any) -> Run:
    kept = {key: more.pop(key) for key in ("interruption", "ends") if key in more}
    data = {"config_name": model, "train_path": prepared, "max_predictions_per_seq": 5}
    return Run(name, "pretrain", {**SMALL, **data, "max_steps": 4, "save_steps": 2, **more}, **kept)


def fine_tuning(name: str, folder: Path, model: Path, **more: Any) -> Run:
    every = {"do_train": True, "do_eval": True, "max_steps": 6, "eval_steps": 3, "cache_dir": folder / "cache"}
    data = {"model_name_or_path": model, "task_name": "SST-2", "data_dir": folder / "glue" / "SST-2"}
    return Run(name, "finetune_glue", {**SMALL, **every, **data, **more})


def assert_as_alone(out: Path, runs: list[Run], manner: str) -> None:
    """Run them in one process; compare each that came to its end with the same in a process of its own."""
    assert run_session(out / "together", runs, manner) == [run.ends for run in runs]
    for run in runs:
        if run.ends == 0:
            assert run_session(out / "alone", [run]) == [0]
            found, expected = numbers(out / "together" / run.name), numbers(out / "alone" / run.name)
            assert expected and found.keys() >= expected.keys()  # a run that was stopped has a checkpoint more
            assert not [key for key in expected if found[key] != expected[key]], run.name


def test_a_second_pre_training_after_one_that_diverged(prepared: Path, model: Path, tmp_path: Path) -> None:
    runs = [
        pretraining("diverged", prepared, model, learning_rate=1e30, ends="Diverged"),
        pretraining("second", prepared, model),
    ]
    assert_as_alone(tmp_path, runs, "notebook")


@pytest.mark.slow
@pytest.mark.parametrize("manner", MANNERS)
def test_pre_training_then_fine_tuning_then_evaluating(
    prepared: Path, model: Path, folder: Path, tmp_path: Path, manner: str
) -> None:
    """And the second begins after one that failed. The first's folder is what the last starts from."""
    first = tmp_path / "together" / "first"
    data = {"tokenizer_name": prepared / "tokenizer"}
    runs = [
        pretraining("first", prepared, model),
        pretraining("wrong", prepared, model, max_seq_length=4096, ends="UserError"),
        pretraining("diverged", prepared, model, learning_rate=1e30, save_async=True, ends="Diverged"),
        pretraining("second", prepared, model, seed=7),
        fine_tuning("tuned", folder, first, **data),
        fine_tuning("evaluated", folder, tmp_path / "together" / "tuned", do_train=False, **data),
    ]
    assert_as_alone(tmp_path, runs, manner)


@pytest.mark.slow
@pytest.mark.parametrize("manner", MANNERS)
def test_what_an_interrupted_run_was_at_does_not_reach_the_next(
    prepared: Path, model: Path, tmp_path: Path, manner: str
) -> None:
    """Its profiler, the checkpoint that is being written in the background, its precision, its model."""
    other = {"bf16": True, "num_train_epochs": 1.0}
    runs = [
        pretraining(
            "profiled", prepared, model, profile_steps="2-4", interruption=KeyboardInterrupt, ends="KeyboardInterrupt"
        ),
        pretraining(
            "saved",
            prepared,
            model,
            save_steps=1,
            save_async=True,
            interruption=KeyboardInterrupt,
            ends="KeyboardInterrupt",
        ),
        pretraining("failed", prepared, model, bf16=True, interruption=ValueError, ends="ValueError"),
        pretraining("plain", prepared, model, profile_steps="2-3", save_async=True),
        pretraining("halves", prepared, model, **other, trace=True, gradient_checkpointing=True),
        pretraining("plain_again", prepared, model, optim="lamb", save_total_limit=1),
    ]
    assert_as_alone(tmp_path, runs, manner)
    assert [path.name for path in sorted((tmp_path / "together" / "saved").glob("checkpoint-*"))] == [
        "checkpoint-1",
        "checkpoint-2",
    ]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(prepared: Path, model: Path, tmp_path: Path) -> None:
    """By Ctrl-C, or a notebook's button; a job between does not disturb it."""
    runs = [
        pretraining("stopped", prepared, model, interruption=signal.SIGINT, ends=130),
        pretraining("between", prepared, model, seed=3, interruption=signal.SIGTERM, ends=143),
        pretraining("stopped", prepared, model, resume=True),
    ]
    assert_as_alone(tmp_path, runs, "main")


@pytest.mark.slow
@pytest.mark.parametrize("manner", MANNERS)
def test_all_jobs_one_after_the_other(folder: Path, tmp_path: Path, manner: str) -> None:
    start = {"model_name_or_path": folder / "model", "cache_dir": folder / "cache", "max_steps": 4}
    both = {**SMALL, **start, "do_train": True, "do_eval": True, "max_seq_length": 48}
    squad = {"train_file": folder / "squad.json", "predict_file": folder / "squad.json", "max_query_length": 12}
    many = {"tasks": [folder / "own.json"], "data_dir": folder / "glue"}
    meta = {
        "model_name_or_path": folder / "model", "task_train_files": [folder / "tasks"], "max_steps": 2,
        "num_batches": 3, "max_seq_length": 16, "head_hidden_size": 8, "encoding_size": 6, "train_lr": 0.05,
        "adapter_hidden_size": 4, "parameter_efficient": True, "global_adapters": True,
    }  # fmt: skip
    few = {"checkpoint": tmp_path / "together" / "meta", "task_dir": write_leopard(tmp_path / "films", 2), "k": [4]}
    few |= {"max_seq_length": 16, "epochs": 2}
    runs = [
        Run("squad", "finetune_squad", {**both, **squad}),
        Run("many", "multitask", {**both, **many, "conditional": "base", "seed": 3}),
        Run("seeds", "finetune_glue", {**both, "train_file": folder / "squad.json", "seeds": [1]}, ends="UserError"),
        Run("meta", "meta_train", meta),
        fine_tuning("tuned", folder, folder / "model", schedule="gpipe", gradient_accumulation_steps=2),
        Run("many_again", "multitask", {**both, **many, "conditional": "none"}),
        Run("few_failed", "few_shot", few, ValueError, "ValueError"),
        Run("few", "few_shot", few),
        Run("meta_failed", "meta_train", {**meta, "max_steps": 3}, KeyboardInterrupt, "KeyboardInterrupt"),
        Run("meta_again", "meta_train", {**meta, "seed": 2}),
    ]
    assert_as_alone(tmp_path, runs, manner)
