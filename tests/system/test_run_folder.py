"""A run's folder is a model at all times: for transformers, and for the next job."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForPreTraining, BertForSequenceClassification, pipeline

from ds_bert.checkpoint.folders import checkpoints, newest_checkpoint
from tests.support.jobs import Pretraining, pretrain, run_job, wait_for
from tests.support.model_folder import write_bert_folder
from tests.system.test_finetune import BAD, FILLER, GOOD, write_reviews

INDEX = "model.safetensors.index.json"
pytestmark = pytest.mark.slow


def glue(folder: Path, out: Path, ranks: int = 1, **flags: Any) -> str:
    usual: dict[str, Any] = {
        "train_file": folder / "train.tsv", "validation_file": folder / "dev.tsv", "cache_dir": folder / "cache",
        "output_dir": out, "max_seq_length": 16, "learning_rate": 5e-3, "metric_for_best_model": "loss",
    }  # fmt: skip
    words = [part for name, value in (usual | flags).items() for part in (f"--{name}", value)]
    printed = out.with_name(f"{out.name}.printed")
    ended = run_job("pipelines/finetune_glue.py", printed, [*words, "--do_train", "--do_eval"], ranks, timeout=120)
    said = "".join(path.read_text() for path in sorted(printed.glob("*.txt")))
    assert [end.status for end in ended] == [0] * ranks, said
    return said


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_best_is_not_the_newest(tmp_path: Path, ranks: int) -> None:
    """What is held out says the opposite of what is learned, so an early evaluation is the best."""
    write_reviews(tmp_path / "train.tsv", 64, 1)
    write_reviews(tmp_path / "dev.tsv", 20, 2)
    header, *rows = (tmp_path / "dev.tsv").read_text().splitlines()
    flipped = [f"{row[:-1]}{1 - int(row[-1])}" for row in rows]
    (tmp_path / "dev.tsv").write_text("\n".join([header, *flipped]) + "\n")
    model, out = write_bert_folder(tmp_path / "model", [*GOOD, *BAD, *FILLER]), tmp_path / "out"
    cut = {"num_stages": ranks, "model_name_or_path": model, "eval_steps": 4, "save_steps": 4, "save_total_limit": 1}
    glue(tmp_path, out, ranks, max_steps=16, **cut)
    chosen = json.loads((out / "best.json").read_text())["checkpoint"]
    assert [path.name for path in checkpoints(out)] == [chosen, "checkpoint-16"]
    best, theirs = (BertForSequenceClassification.from_pretrained(folder) for folder in (checkpoints(out)[0], out))
    assert all(map(torch.equal, best.state_dict().values(), theirs.state_dict().values()))
    classify: Any = pipeline("text-classification", model=str(out))
    texts = [row.rpartition("\t")[0] for row in rows]
    assert classify(texts) == pipeline("text-classification", model=str(checkpoints(out)[0]))(texts)  # type: ignore[call-overload]

    said = glue(tmp_path, tmp_path / "next", ranks, max_steps=1, num_stages=ranks, model_name_or_path=out)
    assert said.count(f"starting from {out / chosen}, the best checkpoint of its run (loss ") == 1
    told = json.loads((tmp_path / "next" / "arguments.json").read_text())
    assert told["model_name_or_path"] == str(out / chosen)

    # Resumed, and with an evaluation that says so, the newest becomes the best.
    (tmp_path / "dev.tsv").write_text("\n".join([header, *rows]) + "\n")
    glue(tmp_path, out, ranks, max_steps=20, resume=True, **cut)
    assert {place.partition("/")[0] for place in json.loads((out / INDEX).read_text())["weight_map"].values()} == {
        "checkpoint-20"
    }
    assert [path.name for path in checkpoints(out)] == ["checkpoint-20"]
    assert BertForSequenceClassification.from_pretrained(out)


def test_killed_at_any_time_it_loads(prepared: Path, model: Path, tmp_path: Path) -> None:
    """And resumed, it is of the newest checkpoint again, even where there is nothing left to train."""
    out, chance = tmp_path / "out", random.Random(1)
    words: list[object] = [
        "--config_name", model, "--train_path", prepared, "--output_dir", out, "--max_seq_length", 32,
        "--max_steps", 60, "--max_predictions_per_seq", 5, "--save_steps", 1, "--save_total_limit", 2, "--resume",
        "--disable_tqdm",
    ]  # fmt: skip
    for number in range(6):
        job = Pretraining(tmp_path / f"printed-{number}", words)
        step = max((int(path.name.rpartition("-")[2]) for path in checkpoints(out)), default=0)
        wait_for(lambda: (out / f"checkpoint-{step + 3}").exists())  # noqa: B023
        wait_for(lambda: chance.random() < 0.05)
        job.ranks.processes[0].kill()
        job.wait()
        assert BertForPreTraining.from_pretrained(out)
    assert pretrain(tmp_path / "last", words)[0].status == 0
    newest = newest_checkpoint(out)
    assert newest and newest.name == "checkpoint-60"
    (out / INDEX).write_text((out / INDEX).read_text().replace("checkpoint-60", "checkpoint-59"))
    assert pretrain(tmp_path / "healed", words)[0].status == 0
    whole, theirs = (BertForPreTraining.from_pretrained(folder).state_dict().values() for folder in (newest, out))
    assert all(map(torch.equal, whole, theirs))
