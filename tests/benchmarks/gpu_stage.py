"""Measure BERT pre-training on one GPU in bf16: sequences/s and the share of the GPU's peak FLOP/s.

Only useful FLOPs count: forward and backward, with MLM logits at the masked positions.

    python tests/benchmarks/gpu_stage.py --output gpu.json

To add a system, write a function like `transformers_step` and name it in `SYSTEMS`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.costs import training_flops
from ds_bert.modeling.model import build_config
from ds_bert.stage_map import StageMap
from ds_bert.training.meter import known_peak
from ds_bert.training.pretraining import PretrainingObjective
from ds_bert.training.starting_model import build_engine

VOCABULARY = 30522
SIZES = {  # layers, hidden size, heads
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
MICRO_BATCH = {128: 256, 512: 64}
PREDICTIONS = {128: 20, 512: 76}


def model_config(size: str) -> Any:
    """Return the configuration of a model of one of `SIZES`."""
    layers, hidden, heads = SIZES[size]
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return build_config(sizes | {"intermediate_size": 4 * hidden, "vocab_size": VOCABULARY})


def transformers_step(size: str, length: int) -> Callable[[], None]:
    """Return one optimizer step of transformers' BertForPreTraining, fed with the same random micro-batch."""
    from transformers import BertConfig, BertForPreTraining

    layers, hidden, heads = SIZES[size]
    config = BertConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * hidden
    )
    model = BertForPreTraining(config).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    shape = (MICRO_BATCH[length], length)
    ids = torch.randint(1000, VOCABULARY, shape, device="cuda")
    masked = torch.rand(shape, device="cuda").argsort(dim=1) < PREDICTIONS[length]
    labels = ids.where(masked, -100)
    pairs = torch.randint(2, shape[:1], device="cuda")

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(ids.masked_fill(masked, 103), labels=labels, next_sentence_label=pairs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


@cache
def one_process() -> Grid:
    """Join a world of one; can be done once only."""
    layers = max(layers for layers, _, _ in SIZES.values())
    return start_process_group(StageMap((0,) * (layers + 2), ((0,),)), timeout_seconds=60)


def ds_bert_step(size: str, length: int) -> Callable[[], None]:
    """Return one optimizer step of ds_bert's engine on one stage, fed with the same random micro-batch."""
    config = model_config(size)
    grid = replace(one_process(), stage_map=StageMap((0,) * (config.num_hidden_layers + 2), ((0,),)))
    rows, predictions = MICRO_BATCH[length], PREDICTIONS[length]
    settings = EngineSettings(weight_decay=0.01, precision="bf16")
    engine = build_engine(config, "pretraining", PretrainingObjective(), grid, settings, 1)
    ids = torch.randint(1000, VOCABULARY, (rows, length), device=grid.device)
    columns = torch.rand((rows, length), device=grid.device).argsort(dim=1)[:, :predictions]
    positions = (torch.arange(rows, device=grid.device)[:, None] * length + columns).flatten()
    labels = {
        "masked_positions": positions,
        "masked_words": ids.flatten()[positions],
        "next_sentence": torch.randint(2, (rows,), device=grid.device),
    }
    inputs = {"input_ids": ids.flatten().index_fill(0, positions, 103).view_as(ids), "token_type_ids": ids * 0}
    batch = MicroBatch(0, (rows, length, 0), inputs, labels)

    def step() -> None:
        engine.train_batch([batch], 1e-4)

    return step


SYSTEMS = {"ds_bert": ds_bert_step, "transformers": transformers_step}


def sequences_per_second(step: Callable[[], None], micro_batch: int, steps: int, warmup: int = 3) -> float:
    """Time ``steps`` optimizer steps after ``warmup`` of them."""
    for index in range(warmup + steps):
        if index == warmup:
            torch.cuda.synchronize()
            begin = time.perf_counter()
        step()
    torch.cuda.synchronize()
    return micro_batch * steps / (time.perf_counter() - begin)


def main() -> int:
    """Measure every system, size and length; print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, help="JSON file for the results; must not exist")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("nothing measured: there is no CUDA GPU here")
        return 0
    if arguments.output and arguments.output.exists():
        parser.error(f"--output: {arguments.output} exists already, and is not overwritten")

    device = torch.cuda.get_device_name()
    peak = known_peak(device, "bf16", tf32=False)
    print(f"{device}, torch {torch.__version__}, bf16, peak {f'{peak / 1e12:.0f} TFLOP/s' if peak else 'unknown'}")
    rows = []
    for system in arguments.systems:
        for size in arguments.sizes:
            for length, micro_batch in MICRO_BATCH.items():
                speed = sequences_per_second(SYSTEMS[system](size, length), micro_batch, arguments.steps)
                share = speed * training_flops(model_config(size), length, PREDICTIONS[length]) / peak if peak else None
                rows.append({"system": system, "size": size, "length": length, "micro_batch": micro_batch})
                rows[-1] |= {"sequences_per_second": speed, "share_of_peak": share}
                percent = f"{share:6.1%} of peak" if share else ""
                print(f"{system:14} BERT-{size:5} length {length:3}: {speed:8.1f} sequences/s {percent}", flush=True)
                torch.cuda.empty_cache()
    if arguments.output:
        results = {"device": device, "torch": torch.__version__, "runs": rows}
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
