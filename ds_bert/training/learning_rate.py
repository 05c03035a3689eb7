"""The learning rate as a function of the optimizer step: nothing to store, nothing to restore."""

import math

from ds_bert.training.arguments import TrainingArguments


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float, course: str) -> float:
    """Return the learning rate of ``step``, counted from 0.

    Args:
        step: optimizer steps taken before.
        total_steps: of the whole training; at its end "linear" and "cosine" reach 0.
        warmup_steps: steps over which the rate rises linearly from 0.
        peak: highest rate.
        course: "linear", "cosine" or "constant" after the warm-up.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if course == "linear":
        return peak * max(0.0, 1.0 - progress)
    if course == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return peak


def warmup_steps(arguments: TrainingArguments, total_steps: int) -> int:
    """Steps over which the rate rises: those that were given, or a share of all."""
    return arguments.warmup_steps or round(arguments.warmup_ratio * total_steps)
