"""Engines to save and load, and what their checkpoints hold."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.tensors import write_tensors
from ds_bert.engine.engine import Engine
from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings
from ds_bert.files import write_json
from ds_bert.modeling.model import build_config
from ds_bert.training.pretraining import PretrainingObjective
from ds_bert.training.starting_model import build_engine
from tests.support import refusal
from tests.support.state import state_by_name
from tests.support.toy import ROWS, SIZES, VOCABULARY, global_batch
from tests.support.training import micro_batches

ROWS_OF_MICRO_BATCH = 2
CUT_DEPENDENT = {"manifest.json", "stage_map.json", "arguments.json"}


def toy_fields(family: str) -> dict[str, Any]:
    """The configuration of a toy BERT or ALBERT with dropout."""
    fields = SIZES | {"model_type": family, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    return fields | ({"embedding_size": 16} if family == "albert" else {})


def toy_engine(grid: Grid, settings: EngineSettings, family: str = "bert", head: str = "pretraining") -> Engine:
    """Build this process's stage of a toy with fresh weights."""
    config = build_config(toy_fields(family), head)
    count = ROWS // ROWS_OF_MICRO_BATCH // grid.num_replicas
    return build_engine(config, head, PretrainingObjective(), grid, settings, count)


def train(engine: Engine, first: int, last: int, learning_rate: float = 1e-2) -> None:
    """Take the steps from ``first`` to before ``last`` and drain."""
    for step in range(first, last):
        engine.train_batch(micro_batches(engine.grid, global_batch(step), ROWS_OF_MICRO_BATCH), learning_rate)
    engine.drain()


def describe(engine: Engine) -> Any:
    """Return a function that writes a model's config.json, without a tokenizer."""
    config = build_config({"model_type": "bert", "vocab_size": VOCABULARY})

    def write(folder: Path) -> None:
        write_json(folder / "config.json", {"model_type": config.model_type})

    return write


def state_of(engine: Engine) -> dict[str, torch.Tensor]:
    """All that this process would save, by kind and name."""
    tensors, _ = state_by_name(engine.optimizer, engine.steps_done)
    return {f"{kind}/{name}": tensor for kind, by_name in tensors.items() for name, tensor in by_name.items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def contents(checkpoint: Path, without: Collection[str] = CUT_DEPENDENT) -> dict[str, bytes | str | None]:
    """All of a checkpoint that must not depend on the cut."""
    return refusal.contents(checkpoint, without)


def write_checkpoint(output_dir: Path, step: int) -> Path:
    """Write a checkpoint of made-up tensors, as a whole."""
    partial = folders.begin(output_dir, step)
    generator = torch.Generator().manual_seed(step)
    names = [f"model-{part:05d}-of-00002.safetensors" for part in (1, 2)] + ["optimizer.safetensors"]
    entries = {
        name: write_tensors(partial / name, {"tensor": torch.randn(40, 5, generator=generator)}) for name in names
    }
    write_json(partial / "trainer_state.json", {"step": step, "optimizer": {}})
    write_json(partial / "config.json", {"model_type": "bert"})
    (partial / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    return folders.commit(output_dir, step, entries)
