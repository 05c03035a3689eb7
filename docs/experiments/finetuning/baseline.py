"""What the baselines of transformers' Trainer have in common: settings, training, and one result file per run."""

import argparse
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments

from ds_bert.files import write_json


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the flags that all baselines share."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.add_argument("--model", type=Path, required=True, help="folder of a Hugging Face checkpoint")
    flags.add_argument("--results_dir", type=Path, required=True, help="where a JSON file per task and seed goes")
    flags.add_argument("--seed", type=int, default=1)
    flags.add_argument("--epochs", type=int, default=3)
    flags.add_argument("--learning_rate", type=float, default=5e-5)
    flags.add_argument("--batch_size", type=int, default=32, help="global batch, over all processes")
    flags.add_argument("--warmup_ratio", type=float, default=0.1)
    flags.add_argument("--weight_decay", type=float, default=0.01)
    flags.add_argument("--max_seq_length", type=int, default=128)
    flags.add_argument("--max_train_samples", type=int, help="only this many of the first training examples")
    flags.add_argument("--max_eval_samples", type=int, help="only this many of the first examples to evaluate")
    flags.add_argument("--padding", choices=["longest", "max_length"], default="longest", help="of a batch, or always")
    flags.add_argument("--group_by_length", action="store_true", help="batches of examples of about the same length")
    flags.add_argument("--attn_implementation", choices=["sdpa", "eager"], default="sdpa")
    flags.add_argument("--bf16", action="store_true", help="autocast to bfloat16; weights stay in fp32")
    return flags


def skip_if_done(settings: argparse.Namespace, task: str) -> Path:
    """Return the result file of this task and seed; end the process where it exists already."""
    result = settings.results_dir / f"trainer_{task}_seed{settings.seed}.json"
    if result.exists():
        print(f"{result} is there already")
        sys.exit(0)
    settings.results_dir.mkdir(parents=True, exist_ok=True)
    return result


def train(
    settings: argparse.Namespace,
    model: Callable[[], torch.nn.Module],
    examples: Sequence[dict[str, Any]],
    collator: Callable[..., Any],
    folder: str,
) -> tuple[Trainer, dict[str, Any]]:
    """Train with AdamW, linear warm-up and decay, and gradients clipped at 1.

    Args:
        settings: see `parser`.
        model: makes the model, after the seed has been set: its new weights follow from the seed.
        examples: encoded training examples.
        collator: makes a batch of them.
        folder: an empty one that the Trainer wants.

    Returns:
        The Trainer, and what is to be recorded: steps, seconds and samples a second of all steps but the first (it
        warms up, and ds_bert does not count it either), training loss.
    """
    transformers.set_seed(settings.seed)
    clock = _Clock()
    trainer = Trainer(
        model=model(),
        args=_arguments(settings, len(examples), folder),
        train_dataset=examples,
        data_collator=collator,
        callbacks=[clock],
    )
    output = trainer.train()
    seconds = time.perf_counter() - clock.start
    # Trainer groups what it predicts, too, and hands the predictions back in that order.
    trainer.args.train_sampling_strategy = "random"
    return trainer, {
        "train_samples": len(examples),
        "steps": output.global_step,
        "train_seconds": round(seconds, 1),
        "train_samples_per_second": round((len(examples) * settings.epochs - settings.batch_size) / seconds, 2),
        "train_loss": output.training_loss,
        "losses": [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry],
    }


def _arguments(settings: argparse.Namespace, num_examples: int, folder: str) -> TrainingArguments:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if settings.batch_size % processes:
        raise SystemExit(f"--batch_size {settings.batch_size} does not divide by {processes} processes")
    steps = math.ceil(num_examples / settings.batch_size) * settings.epochs
    return TrainingArguments(
        output_dir=folder,
        seed=settings.seed,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        bf16=settings.bf16,
        per_device_train_batch_size=settings.batch_size // processes,
        per_device_eval_batch_size=32,
        save_strategy="no",
        eval_strategy="no",
        train_sampling_strategy="group_by_length" if settings.group_by_length else "random",
        logging_steps=20,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        average_tokens_across_devices=False,  # would multiply a classifier's mean loss by the number of processes
        ddp_find_unused_parameters=False,
        ddp_backend="gloo" if processes > 1 and not torch.cuda.is_available() else None,
    )


class _Clock(TrainerCallback):
    """Begins to count when the first step is done."""

    start = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer."""
        self.start = self.start or time.perf_counter()


def record(result: Path, settings: argparse.Namespace, task: str, measures: dict[str, float], run: dict) -> None:
    """Write one run's result."""
    excluded = ("model", "data_dir", "results_dir", "train_file", "eval_file")
    write_json(
        result,
        {
            "task": task,
            "seed": settings.seed,
            "measures": measures,
            **run,
            "settings": {key: value for key, value in vars(settings).items() if key not in excluded},
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "date": date.today().isoformat(),
        },
    )
    print(task, settings.seed, measures, flush=True)


def scratch_folder() -> tempfile.TemporaryDirectory:
    """Return an empty folder that disappears with the run."""
    return tempfile.TemporaryDirectory(prefix="trainer_")
