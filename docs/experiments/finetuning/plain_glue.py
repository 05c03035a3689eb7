"""Train once more, in a plain torch loop in fp32, what one of the two sides trained, and compare the losses.

    python plain_glue.py --model checkpoint/ --task STS-B --data_dir glue/STS-B --like runs/stsb
    python plain_glue.py --model checkpoint/ --task STS-B --data_dir glue/STS-B --like results/trainer_STS-B_seed1.json

The loop makes the same random choices as that side and computes everything else itself. Of ds_bert it takes the order
of the examples, the head's first weights and the seeds of the dropout masks (a BERT run with ``--logging_steps 1``). Of
Trainer it repeats the first two; the masks cannot be had, so Trainer must have run with ``--no_dropout``.
"""

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from trainer_glue import NO_DROPOUT, TASKS, read
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ds_bert.data.sampler import LengthGroupedSampler
from ds_bert.engine.module import layer_seed
from ds_bert.modeling.model import initialize

Batch = list[list[int]]  # numbers of the examples in each micro-batch


class Side(NamedTuple):
    """What a side chose at random, its settings, and the losses it logged: (last step, mean since the one before)."""

    model: Callable[[], torch.nn.Module]
    batch: Callable[[int], Batch]
    dropout_seed: int | None
    pad_to: int
    settings: dict[str, Any]
    losses: list[tuple[int, float]]


def like_ds_bert(
    run: Path, settings: dict[str, Any], make: Callable[..., torch.nn.Module], lengths: np.ndarray
) -> Side:
    """Repeat the choices of the ds_bert run in folder ``run``, whose arguments are ``settings``."""
    if settings["bf16"] or settings["fp16"] or settings["logging_steps"] != 1 or settings["schedule"] == "2bw":
        raise SystemExit(f"{run}: needs fp32, --logging_steps 1, and another schedule than 2bw")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    size, seed = settings["per_device_train_batch_size"], settings["seed"]
    count = settings["gradient_accumulation_steps"]
    sampler = LengthGroupedSampler(lengths, size * count, seed, settings["length_window"])

    def model() -> torch.nn.Module:
        made: Any = make()
        for name in ("classifier.weight", "classifier.bias"):
            initialize(name, made.get_parameter(name).data, made.config.initializer_range, seed)
        return made

    def batch(step: int) -> Batch:
        return sampler.samples(step)[1].reshape(count, size).tolist()

    losses = [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]
    return Side(model, batch, seed, 8, settings, losses)


def like_trainer(
    result: Path, written: dict[str, Any], make: Callable[..., torch.nn.Module], lengths: np.ndarray
) -> Side:
    """Repeat the choices of the run of `trainer_glue.py` that has ``written`` the file ``result``."""
    settings = written["settings"]
    if settings["bf16"] or settings["group_by_length"] or not settings.get("no_dropout") or written["processes"] > 1:
        raise SystemExit(f"{result}: needs one process, --no_dropout, and neither --bf16 nor --group_by_length")
    seed, size = settings["seed"], settings["batch_size"]
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(lengths), generator=generator).split(size) for _ in range(settings["epochs"])]
    batches = [part.tolist() for order in orders for part in order]

    def model() -> torch.nn.Module:
        transformers.set_seed(seed)
        return make(**NO_DROPOUT)

    return Side(model, lambda step: [batches[step]], None, 1, settings, written["losses"])


def seed_masks(model: Any, seed: int, now: dict[str, int]) -> None:
    """Before each layer of a BERT classifier, seed what draws its dropout masks as ds_bert does."""
    layers = [model.bert.embeddings, *model.bert.encoder.layer, model.bert.pooler]
    for number, layer in enumerate(layers):

        def hook(*_: Any, number: int = number) -> None:
            torch.default_generator.manual_seed(layer_seed(seed, now["step"], now["micro_batch"], number))

        layer.register_forward_pre_hook(hook)


def adamw(model: torch.nn.Module, settings: dict[str, Any], steps: int) -> tuple[Any, Any]:
    """Return the optimizer, without weight decay of biases and norms, and its schedule: linear warm-up and decay."""
    warmup = settings.get("warmup_steps") or round(settings["warmup_ratio"] * steps)
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": decayed, "weight_decay": settings["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings["learning_rate"], eps=1e-8)

    def factor(step: int) -> float:
        return step / warmup if step < warmup else (steps - step) / (steps - warmup)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train(side: Side, encoded: Any, labels: torch.Tensor, pad: Callable[..., Any]) -> list[float]:
    """Train as many steps as the side logged; return every step's loss, the mean over its examples."""
    model, now = side.model().train(), {"step": 0, "micro_batch": 0}
    if side.dropout_seed is not None:
        seed_masks(model, side.dropout_seed, now)
    optimizer, schedule = adamw(model, side.settings, side.losses[-1][0])
    compare = F.mse_loss if labels.is_floating_point() else F.cross_entropy
    losses = []
    for step in range(side.losses[-1][0]):
        batch = side.batch(step)
        loss = 0.0
        for micro_batch, rows in enumerate(batch):
            now.update(step=step, micro_batch=micro_batch)
            inputs = pad({key: [encoded[key][row] for row in rows] for key in encoded}, pad_to_multiple_of=side.pad_to)
            part = compare(model(**inputs).logits.squeeze(-1), labels[rows]) * (len(rows) / sum(map(len, batch)))
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss)
    return losses


def show(losses: Sequence[float], logged: Sequence[tuple[int, float]]) -> None:
    """Print some of the losses and the largest difference."""
    before, rows = 0, []
    for step, theirs in logged:
        rows.append((step, float(np.mean(losses[before:step])), theirs))
        before = step
    for step, mine, theirs in rows[:: max(1, len(rows) // 10)]:
        print(f"step {step:4d}   plain {mine:.6f}   logged {theirs:.6f}")
    print(f"largest difference in {before} steps: {max(abs(mine - theirs) for _, mine, theirs in rows):.2g}")


def main() -> None:
    """Compare with one run."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", type=Path, required=True, help="folder of the BERT checkpoint")
    flags.add_argument("--task", choices=sorted(TASKS), required=True)
    flags.add_argument("--data_dir", type=Path, required=True, help="the task's folder of TSV files")
    flags.add_argument("--like", type=Path, required=True, help="a ds_bert run's folder, or a Trainer run's result")
    chosen = flags.parse_args()
    of_ds_bert = chosen.like.is_dir()
    written = json.loads((chosen.like / "arguments.json" if of_ds_bert else chosen.like).read_text())
    settings = written if of_ds_bert else written["settings"]
    texts, words = read(chosen.data_dir / "train.tsv", TASKS[chosen.task], settings["max_train_samples"] or None)
    names = sorted(set(words))
    numbers = [float(word) if chosen.task == "STS-B" else names.index(word) for word in words]
    tokenizer = AutoTokenizer.from_pretrained(chosen.model)
    encoded = tokenizer(*map(list, zip(*texts, strict=True)), truncation=True, max_length=settings["max_seq_length"])
    make = functools.partial(
        AutoModelForSequenceClassification.from_pretrained,
        chosen.model,
        num_labels=1 if chosen.task == "STS-B" else len(names),
    )
    repeat = like_ds_bert if of_ds_bert else like_trainer
    side = repeat(chosen.like, written, make, np.array([len(ids) for ids in encoded["input_ids"]]))
    losses = train(side, encoded, torch.tensor(numbers), functools.partial(tokenizer.pad, return_tensors="pt"))
    show(losses, side.losses)


if __name__ == "__main__":
    main()
