"""What a save takes of a GPU's memory, beyond what training holds there: a piece at a time, not a copy of everything.

python -m tests.gpu.traced tests.gpu.memory FOLDER
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ds_bert.checkpoint.saving import save_checkpoint
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.model import build_config
from ds_bert.stage_map import StageMap
from ds_bert.training.pretraining import PretrainingObjective
from ds_bert.training.starting_model import build_engine
from tests.gpu.ranks import Bench, CheckFailed, run_ranks
from tests.support.toy import global_batch
from tests.support.training import micro_batches

MIB = 2**20
ALLOWED = 64 * MIB
BERT_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}


def measure(folder: Path, sizes: dict[str, Any]) -> dict[str, float]:
    """Train a stage for a step, so that its moments are there, and save; return MiB of the device's memory."""
    layers = sizes["num_hidden_layers"] + 2
    grid = start_process_group(StageMap((0,) * layers, ((0,),)), timeout_seconds=60)
    settings = EngineSettings("adamw", weight_decay=0.01, precision="bf16")
    engine = build_engine(build_config(sizes), "pretraining", PretrainingObjective(), grid, settings, 1)
    engine.train_batch(micro_batches(grid, global_batch(0), 8), 1e-4)
    engine.drain()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    save_checkpoint(folder / "out", engine, lambda folder: None, {})
    torch.cuda.synchronize()
    extra, left = torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before
    return {"held, MiB": before / MIB, "extra while saving, MiB": extra / MIB, "left behind, MiB": left / MIB}


def check(bench: Bench) -> dict[str, Any]:
    """A check: saving takes `ALLOWED` bytes of the device's memory at most."""
    folder = bench.folder / "saving-memory"
    run_ranks(bench, ["tests.gpu.memory", folder], "saving-memory")
    return judge(json.loads((folder / "memory.json").read_text()))


def judge(found: dict[str, float]) -> dict[str, Any]:
    """Return the figures, rounded.

    Raises:
        CheckFailed: saving took more.
    """
    extra = found["extra while saving, MiB"]
    if extra > ALLOWED / MIB:
        raise CheckFailed(
            f"saving takes {extra:.0f} MiB of the device's memory beside {found['held, MiB']:.0f}; allowed are 64"
        )
    return {name: round(value, 1) for name, value in found.items()}


def main(words: Sequence[str]) -> None:
    """Measure BERT-base."""
    folder = Path(words[0])
    (folder / "memory.json").write_text(json.dumps(measure(folder, BERT_BASE)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
