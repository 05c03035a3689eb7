"""What every training job checks of its arguments, and how long it trains."""

import math
import re
from typing import Any

import torch

from ds_bert.errors import UserError
from ds_bert.training.arguments import TRACED, TrainingArguments

RANGES = ("profile_steps", "trace_steps")
"""The arguments that name steps."""
_BELOW_1 = math.nextafter(1.0, 0.0)
BOUNDS: dict[str, tuple[float, float]] = {
    "per_device_train_batch_size": (1, math.inf),
    "per_device_eval_batch_size": (1, math.inf),
    "gradient_accumulation_steps": (1, math.inf),
    "logging_steps": (1, math.inf),
    "start_timeout": (1, math.inf),
    "ddp_timeout": (1, math.inf),
    "heartbeat_timeout": (1, math.inf),
    "num_train_epochs": (0, math.inf),
    "num_minibatches": (0, math.inf),
    "learning_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "max_grad_norm": (0, math.inf),
    "warmup_steps": (0, math.inf),
    "warmup_ratio": (0, 1),
    "adam_beta1": (0, _BELOW_1),
    "adam_beta2": (0, _BELOW_1),
    "adam_epsilon": (0, math.inf),
    "length_window": (1, math.inf),
    "early_stopping_patience": (0, math.inf),
    "max_train_samples": (0, math.inf),
    "max_eval_samples": (0, math.inf),
    "max_predict_samples": (0, math.inf),
    "seed": (0, 2**63 - 1),
    "eval_steps": (-1, math.inf),
    "save_steps": (-1, math.inf),
    "save_total_limit": (0, math.inf),
    "peak_tflops": (0, math.inf),
}


def check_numbers(arguments: TrainingArguments) -> None:
    """Refuse numbers that no training can be done with.

    Raises:
        UserError: the first such argument.
    """
    for name, (lowest, highest) in BOUNDS.items():
        value = getattr(arguments, name, lowest)  # some are arguments of some jobs only
        if not (lowest <= value <= highest and math.isfinite(value)):
            wanted = f"at least {lowest}" if highest == math.inf else f"a number from {lowest} to {highest}"
            raise UserError(f"--{name} is {value}, needed is {wanted}")
    if arguments.max_steps < 1 and arguments.max_steps != -1:
        raise UserError(f"--max_steps is {arguments.max_steps}, needed is at least 1, or -1 for num_train_epochs")
    if arguments.max_steps < 1 and not arguments.num_train_epochs and not arguments.num_minibatches:
        raise UserError("--num_train_epochs is 0, needed is more than 0, or --max_steps")
    if arguments.fp16 and not torch.cuda.is_available():
        raise UserError("--fp16 needs CUDA, which was not found on this machine; use --bf16 or neither")
    for name in ("trace", *RANGES):
        if getattr(arguments, name) and not arguments.output_dir:
            raise UserError(f"--{name} needs --output_dir, where what it keeps goes")
    for name in RANGES:
        named_steps(arguments, name)
    if arguments.max_steps > 0 or arguments.num_minibatches:
        total_steps(arguments, steps_per_epoch=0)
    if not arguments.output_dir and not arguments.num_minibatches:
        raise UserError("--output_dir is missing; it may be left out in throughput runs (--num_minibatches) only")


def total_steps(arguments: TrainingArguments, steps_per_epoch: float) -> int:
    """Optimizer steps of the whole training.

    Raises:
        UserError: it does not have all the steps that are to be profiled or traced.
    """
    if arguments.num_minibatches:
        steps = -(-arguments.num_minibatches // arguments.gradient_accumulation_steps)
    elif arguments.max_steps > 0:
        steps = arguments.max_steps
    else:
        steps = max(1, round(arguments.num_train_epochs * steps_per_epoch))
    for name in RANGES:
        if named_steps(arguments, name).stop - 1 > steps:
            raise UserError(f"--{name} is {getattr(arguments, name)}, but the training has {steps} steps")
    return steps


def named_steps(arguments: Any, name: str) -> range:
    """The steps, counted from 1, that an argument of `RANGES` names: one, as in "10", or several, as in "10-12".

    Raises:
        UserError: it is given and names none.
    """
    text = getattr(arguments, name)
    if text is None:
        return range(0)
    found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last:
        raise UserError(f"--{name} is {text!r}, needed is a step or a range of them, counted from 1, as 10-12")
    return range(first, last + 1)


def traced_steps(arguments: Any) -> range | int:
    """The steps to trace: those that ``--trace_steps`` names, or with ``--trace`` alone how many of the last ones.

    Raises:
        UserError: ``--trace_steps`` is given and names none.
    """
    return named_steps(arguments, "trace_steps") or (TRACED if arguments.trace else 0)
