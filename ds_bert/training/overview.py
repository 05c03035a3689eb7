"""The block that a job prints before its first step: what it is about to do, and what it has guessed."""

import socket
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ds_bert.checkpoint.saving import gather
from ds_bert.engine.engine import Engine
from ds_bert.engine.process_group import Grid
from ds_bert.terminal import fact
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.consistency import changes_since
from ds_bert.training.settings import warmup_steps


def show_overview(grid: Grid, lines: Sequence[tuple[str, str]], notes: Collection[str] = ()) -> None:
    """Print on rank 0.

    Args:
        grid: this process's place.
        lines: labels and what they are of; those without a text are left out.
        notes: what was guessed, cut off or left out, in sentences.
    """
    if grid.rank == 0:
        rows = [(label, text) for label, text in lines if text] + [("note", note) for note in dict.fromkeys(notes)]
        print("\n".join(fact(label, text) for label, text in rows), flush=True)


def describe_engine(engine: Engine, model: Mapping[str, Any], origin: str) -> list[tuple[str, str]]:
    """Say what is trained, on what, cut how, and by which schedule; all processes call this.

    Args:
        engine: with its weights.
        model: fields of its configuration.
        origin: where its weights come from.
    """
    grid, settings = engine.grid, engine.settings

    def gathered(value: Any) -> list[Any]:
        return gather(engine.control, value, grid.world_size)

    sizes = {name: parameter.numel() for name, parameter in engine.module.parameters_by_name().items()}
    schedule = f"{settings.schedule}, {settings.weight_versions} weight version{'s' * (settings.weight_versions > 1)}"
    shared = ", shared among replicas (ZeRO 1)" if settings.zero_stage else ""
    recompute = ", activations computed again" if settings.recompute else ""
    return [
        ("model", describe_model(gathered((sizes, set(engine.optimizer.frozen))), model, origin)),
        ("device", describe_devices(grid, settings.precision, gathered(machine_and_device(grid)))),
        ("cut", grid.stage_map.in_words()),
        ("order", f"{schedule}{recompute}; optimizer {settings.optimizer}{shared}"),
    ]


def describe_model(stages: Sequence[tuple[dict[str, int], set[str]]], model: Mapping[str, Any], origin: str) -> str:
    """Say what is trained: architecture, parameters, where its weights come from.

    Args:
        stages: of every process the elements of its parameters, by names, which are the same for tied ones; and the
            names of those that are not updated.
        model: fields of the configuration.
        origin: where the weights come from.
    """
    sizes: dict[str, int] = {}
    frozen: set[str] = set()
    for stage_sizes, stage_frozen in stages:
        sizes |= stage_sizes
        frozen |= stage_frozen
    total, fixed = sum(sizes.values()), sum(sizes[name] for name in frozen)
    part = f" ({total - fixed:,} of them trained)" if fixed else ""
    shape = f"{model['num_hidden_layers']} encoder layers of {model['hidden_size']}"
    return f"{model['model_type']}, {shape}, {total:,} parameters{part}, {origin}"


def machine_and_device(grid: Grid) -> tuple[str, str]:
    """Names of this process's machine and device."""
    if grid.device.type == "cuda":
        return socket.gethostname(), torch.cuda.get_device_name(grid.device)
    threads = torch.get_num_threads()
    return socket.gethostname(), f"CPU ({threads} thread{'s' * (threads > 1)})"


def describe_devices(grid: Grid, precision: str, everyone: Sequence[tuple[str, str]]) -> str:
    """Say what computes, in which precision, and how tensors travel.

    Args:
        grid: this process's place.
        precision: of weights and activations.
        everyone: `machine_and_device` of all processes.
    """
    hosts = len({host for host, _ in everyone})
    devices = ", ".join(f"{count} x {name}" for name, count in Counter(name for _, name in everyone).items())
    nodes = f" on {hosts} nodes" if hosts > 1 else ""
    messages = f"; messages by {grid.backend}" if grid.world_size > 1 else ""
    return f"{devices}{nodes}, {precision}{messages}"


def describe_batch(arguments: TrainingArguments, replicas: int, unit: str = "examples") -> str:
    """Say what a global batch is made of."""
    size, micro_batches = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    return (
        f"{arguments.global_batch(replicas):,} {unit} a step = {size} x {micro_batches} micro-batch"
        f"{'es' * (micro_batches > 1)} x {replicas} replica{'s' * (replicas > 1)}"
    )


def describe_steps(arguments: TrainingArguments, steps: int, steps_per_epoch: float) -> str:
    """Say how long training takes, and at which rate."""
    warmup = warmup_steps(arguments, steps)
    rise = f", rising over {warmup:,} steps" if warmup else ""
    epochs = f" = {steps / steps_per_epoch:.3g} epochs" if steps_per_epoch else ""
    return f"{steps:,}{epochs}; learning rate {arguments.learning_rate:g}, {arguments.lr_scheduler_type}{rise}"


def describe_resumption(
    arguments: TrainingArguments, checkpoint: Path | None, trains: bool = True
) -> list[tuple[str, str]]:
    """Say what a run goes on from, and what of its trajectory has changed since; nothing where it was not told to.

    Args:
        arguments: of the job.
        checkpoint: that it goes on from; None where there was none.
        trains: whether it trains at all.
    """
    if not arguments.resume or not arguments.run_dir:
        return []
    if checkpoint is None:
        return [("resume", f"none found in {arguments.run_dir}, beginning anew")]
    changed = [("changed", sentence) for sentence in changes_since(checkpoint, arguments)] if trains else []
    return [("resume", f"going on from {checkpoint}"), *changed]
