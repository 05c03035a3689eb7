"""The one workload every system trains on: its sizes, its synthetic batches, and how a run is timed and reported.

A system is a script ``systems/NAME.py`` whose ``main()`` calls `start`, builds its training step, hands it to
`measure`, and so prints one JSON line from rank 0. `pretraining.py` starts it on the right number of processes.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

import torch
import torch.distributed as dist

LAYERS = 6
VOCABULARY = 30522
MODEL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 384,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}

LENGTH = 128
PREDICTIONS = 20
MICRO_BATCH = 8
MICRO_BATCHES = 8
GLOBAL_BATCH = MICRO_BATCH * MICRO_BATCHES

LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.01
CLIP = 1.0
SEED = 1

CLS, SEP, MASK, FIRST_WORD = 101, 102, 103, 1000


@dataclass(frozen=True)
class Batch:
    """B sequences of T tokens, P of them masked in each; every tensor is int64."""

    input_ids: torch.Tensor  # (B, T)
    token_type_ids: torch.Tensor  # (B, T)
    labels: torch.Tensor  # (B, T): the token at masked positions, -100 elsewhere
    masked_positions: torch.Tensor  # (B, P), ascending
    masked_labels: torch.Tensor  # (B, P)
    next_sentence_label: torch.Tensor  # (B,)

    def micro_batches(self, size: int = MICRO_BATCH) -> list["Batch"]:
        """Split into batches of ``size`` sequences."""
        return [Batch(*parts) for parts in zip(*(tensor.split(size) for tensor in vars(self).values()), strict=True)]

    def target(self, head: str) -> torch.Tensor:
        """Return what the loss compares with: MLM labels (B, T), or (B, P) for the masked head, then the NSP label."""
        labels = self.masked_labels if head == "masked" else self.labels
        return torch.cat([labels, self.next_sentence_label[:, None]], dim=1)


def global_batch(step: int) -> Batch:
    """Return the 64 sequences of optimizer step ``step``: ids drawn by Zipf's law, so that a loss can fall."""
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + step)
    shape = (GLOBAL_BATCH, LENGTH)
    frequency = 1.0 / torch.arange(1, VOCABULARY - FIRST_WORD + 1, dtype=torch.float64)
    words = FIRST_WORD + torch.multinomial(frequency, shape[0] * shape[1], replacement=True, generator=generator)
    ids = words.view(shape)
    middle = LENGTH // 2
    ids[:, 0], ids[:, middle], ids[:, -1] = CLS, SEP, SEP
    types = (torch.arange(LENGTH) > middle).long().expand(shape)

    order = torch.rand(shape, generator=generator)
    order[:, [0, middle, LENGTH - 1]] = 2.0
    positions = order.argsort(dim=1)[:, :PREDICTIONS].sort(dim=1).values
    masked_labels = ids.gather(1, positions)
    labels = torch.full(shape, -100).scatter(1, positions, masked_labels)
    next_sentence = torch.randint(2, (GLOBAL_BATCH,), generator=generator)
    return Batch(ids.scatter(1, positions, MASK), types, labels, positions, masked_labels, next_sentence)


def take_core(system: str) -> argparse.Namespace:
    """Read a system's arguments, and confine this process to one core and one thread."""
    parser = argparse.ArgumentParser(prog=system)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--steps", type=int, default=2, help="timed optimizer steps")
    parser.add_argument("--warmup", type=int, default=1, help="optimizer steps before the clock starts")
    parser.add_argument("--cut", type=int, default=LAYERS, help="encoder layers on the first stage")
    parser.add_argument("--head", choices=["transformers", "masked"], default="transformers")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    arguments = parser.parse_args()
    arguments.system = system

    local_rank = int(os.environ["LOCAL_RANK"])
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[local_rank]})
    torch.set_num_threads(1)
    return arguments


def start(system: str) -> argparse.Namespace:
    """Do as `take_core`, join the gloo group and seed this rank's dropout."""
    arguments = take_core(system)
    dist.init_process_group("gloo")
    torch.manual_seed(SEED + dist.get_rank())
    return arguments


def autocast(arguments: argparse.Namespace) -> AbstractContextManager:
    """Return the context a forward pass runs in: bf16 autocast, or none for fp32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bf16")


def adamw(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer that is Trainer's default, ``adamw_torch_fused``."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)


def measure(
    arguments: argparse.Namespace,
    train_step: Callable[[Batch], float],
    cut: str | None = None,
    last_losses: Callable[[], list[float]] = list,
    **more: object,
) -> NoReturn:
    """Train, print the result as one JSON line from rank 0, and end the process.

    Args:
        arguments: what `start` returned.
        train_step: runs one optimizer step on a global batch; returns this rank's share of the loss, so that the sum
            over the ranks is the loss of the global batch.
        cut: the pipeline's cut, for the report.
        last_losses: called after the clock has stopped; the last steps' losses, where `train_step` could not know them
            yet and returned NaN for as many steps at the beginning instead.
        more: further entries of the JSON line.
    """
    batches = [global_batch(step) for step in range(arguments.warmup + arguments.steps)]
    losses: list[float] = []
    ends: list[float] = []
    for step, batch in enumerate(batches):
        if step == arguments.warmup:
            dist.barrier()
            ends.append(time.perf_counter())
        losses.append(train_step(batch))
        ends.append(time.perf_counter())
    dist.barrier()
    timed = ends[arguments.warmup :]
    seconds = time.perf_counter() - timed[0]
    total = torch.tensor([loss for loss in losses + last_losses() if loss == loss], dtype=torch.float64)
    dist.all_reduce(total)
    if dist.get_rank() == 0:
        result = {
            "system": arguments.system,
            "precision": arguments.precision,
            "samples_per_second": GLOBAL_BATCH * arguments.steps / seconds,
            "step_seconds": [after - before for before, after in pairwise(timed)],
            "cut": cut,
            "loss_first": total[0].item(),
            "loss_last": total[-1].item(),
        }
        print(json.dumps(result | more), flush=True)
    dist.barrier()
    # Taking the process group apart can hang in torch 2.13: gloo's thread waits for the interpreter's lock to release
    # a tensor, while the main thread, holding it, waits for gloo's thread.
    os._exit(0)
