"""What a job says before its first step: a line at once, and a block that says what it is about to do."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, BertForPreTraining, BertForSequenceClassification

from tests.support.jobs import REPOSITORY, run_job
from tests.support.many_tasks import write_tasks

LABELS = ("model", "device", "cut", "order", "batch", "steps", "data", "aim", "resume", "changed", "note")


def begin(tmp_path: Path, job: str, world_size: int = 1, status: int = 0, **flags: Any) -> dict[str, list[str]]:
    """Run a job; return what its block says, by label."""
    words = [part for name, value in flags.items() for part in (f"--{name}", value) if part is not True]
    printed = tmp_path / "printed"
    ended = run_job(f"pipelines/{job}.py", printed, words, world_size, timeout=150)
    texts = [path.read_text() for path in sorted(printed.glob("*.txt"))]
    assert all(end.status == status for end in ended), texts
    lines = "".join(texts).splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith("model:")]
    assert not any(line.startswith("step ") for line in lines[:first])
    assert sum("reading model and data" in line for line in lines[:first]) == 1
    block: dict[str, list[str]] = {}
    for line in lines[first:]:
        label, colon, text = line.partition(":")
        if not colon or label not in LABELS:
            break
        block.setdefault(label, []).append(text.strip())
    return block


def num_parameters(model: Any) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters"


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Any]:
    """Own data, whose labels are guessed and one of whose examples is cut, and a model."""
    folder = write_tasks(tmp_path / "tasks")
    rows = ["text,label", *(f"{'good' if number % 2 else 'bad'} film,{number % 2}" for number in range(23))]
    (tmp_path / "own.csv").write_text("\n".join([*rows, " ".join(["film"] * 40) + ",1"]) + "\n")
    flags = {"model_name_or_path": folder / "model", "train_file": tmp_path / "own.csv", "output_dir": tmp_path / "out"}
    return {**flags, "do_train": True, "max_seq_length": 16, "cache_dir": tmp_path / "cache"}


def test_own_texts_on_two_stages(tmp_path: Path, texts: dict[str, Any]) -> None:
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "num_train_epochs": 2}
    flags = {**texts, **batch, "num_stages": 2, "schedule": "2bw", "warmup_steps": 3, "resume": True, "bf16": True}
    block = begin(tmp_path, "finetune_glue", 2, **flags)
    config = AutoConfig.from_pretrained(texts["model_name_or_path"], num_labels=2)
    (model,) = block["model"]
    assert num_parameters(BertForSequenceClassification(config)) in model
    assert model.startswith(f"bert, {config.num_hidden_layers} encoder layers of {config.hidden_size}, ")
    assert model.endswith(f"weights of {texts['model_name_or_path']}")
    assert block["device"] == ["2 x CPU (1 thread), bf16; messages by gloo"]
    assert re.fullmatch(r"embeddings.* on rank 0 \| .*head on rank 1", block["cut"][0])
    assert block["order"] == ["2bw, 2 weight versions; optimizer adamw"]
    assert block["batch"] == ["6 examples a step = 2 x 3 micro-batches x 1 replica"]
    assert block["steps"] == ["8 = 2 epochs; learning rate 5e-05, linear, rising over 3 steps"]
    assert block["data"] == ["own data, examples: 24 to train on"]
    assert block["resume"] == [f"none found in {tmp_path / 'out'}, beginning anew"]
    fresh, labels, columns, cut = block["note"]
    assert "has no classifier.weight, classifier.bias; these start with fresh weights" in fresh
    assert (
        labels.startswith("labels: 2 classes: '0', '1'") and columns == "columns: 'text' is the text, 'label' the label"
    )
    assert "1 of 24 examples is longer than --max_seq_length 16: cut" in cut


def test_going_on_and_measuring(tmp_path: Path, texts: dict[str, Any]) -> None:
    begin(tmp_path / "first", "finetune_glue", **texts, max_steps=2, save_steps=1)
    block = begin(tmp_path / "again", "finetune_glue", **texts, max_steps=4, resume=True)
    assert block["resume"] == [f"going on from {tmp_path / 'out' / 'checkpoint-2'}"]
    assert block["model"][0].endswith(f"weights of {tmp_path / 'out' / 'checkpoint-2'}")
    assert not any("fresh weights" in note for note in block["note"])
    assert block["changed"] == ["--max_steps 2 → 4, from step 2 on"]
    del texts["do_train"]
    block = begin(tmp_path / "measured", "finetune_glue", **texts, do_eval=True, resume=True,
                  validation_file=texts["train_file"])  # fmt: skip
    assert "steps" not in block and block["data"] == ["own data, examples: 24 of validation"]
    assert block["resume"] == [f"going on from {tmp_path / 'out' / 'checkpoint-4'}"]


def test_pre_training(tmp_path: Path, prepared: Path, model: Path) -> None:
    flags = {"config_name": model, "train_path": prepared, "output_dir": tmp_path / "out", "max_steps": 2}
    sizes = {"max_seq_length": 32, "max_predictions_per_seq": 5, "whole_word_mask": True}
    block = begin(tmp_path, "pretrain", 2, **flags, **sizes)
    config = AutoConfig.for_model("bert", **json.loads(model.read_text()))
    assert num_parameters(BertForPreTraining(config)) in block["model"][0]
    assert block["model"][0].endswith("fresh weights")
    assert block["batch"] == ["16 examples a step = 8 x 1 micro-batch x 2 replicas"]
    assert block["aim"] == ["masked whole words (15% of tokens, at most 5 of a sequence), and next sentences"]
    assert re.fullmatch(rf"{re.escape(str(prepared))}: examples: [\d,]+ to train on, [\d,]+ held out", block["data"][0])
    assert "resume" not in block


def test_many_tasks(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "many")
    files = {"model_name_or_path": folder / "model", "tasks": folder / "own.json", "data_dir": folder / "glue"}
    lengths = {"max_seq_length": 24, "max_steps": 2, "cache_dir": tmp_path / "cache"}
    frozen = {"conditional": "base", "freeze_encoder_layers": "0-0"}
    block = begin(tmp_path, "multitask", output_dir=tmp_path / "out", do_train=True, **files, **lengths, **frozen)
    assert "of them trained" in block["model"][0]
    assert block["data"][0].startswith("many tasks, examples: ") and block["note"]


def test_the_first_line_comes_before_slow_imports(tmp_path: Path) -> None:
    program = f"""
import builtins, sys
said = builtins.print
def show(text, **options):
    said([name for name in ("torch", "transformers", "deepspeed") if name in sys.modules], text, **options)
builtins.print = show
sys.argv = ["{REPOSITORY}/pipelines/pretrain.py", "--nothing"]
sys.path.insert(0, "{REPOSITORY}")
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"), {{"__name__": "__main__"}})
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert re.match(r"\[\] ds_bert [\d.]+: pretrain\.py; reading model and data", ended.stdout), ended
    assert ended.returncode == 2 and "--nothing" in ended.stderr
