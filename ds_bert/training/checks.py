"""What every training job checks of its arguments, and how long it trains."""

import re

import torch

from ds_bert.errors import UserError
from ds_bert.training.arguments import TRACED, JobArguments, TrainingArguments
from ds_bert.training.declaration import Bounds, Kind, flags_of


def check_together(arguments: TrainingArguments) -> None:
    """Refuse arguments that no training can be done with together; each alone was checked when it was read.

    Raises:
        UserError: the first such argument.
    """
    if arguments.max_steps < 1 and not arguments.num_train_epochs and not arguments.num_minibatches:
        raise UserError("--num_train_epochs is 0, needed is more than 0, or --max_steps")
    if arguments.fp16 and not torch.cuda.is_available():
        raise UserError("--fp16 needs CUDA, which was not found on this machine; use --bf16 or neither")
    ranges = ranges_of(arguments)
    for name in ("trace", *ranges):
        if getattr(arguments, name) and not arguments.output_dir:
            raise UserError(f"--{name} needs --output_dir, where what it keeps goes")
    for name in ranges:
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
    for name in ranges_of(arguments):
        if named_steps(arguments, name).stop - 1 > steps:
            raise UserError(f"--{name} is {getattr(arguments, name)}, but the training has {steps} steps")
    return steps


def ranges_of(arguments: JobArguments) -> list[str]:
    """Names of the arguments that name steps."""
    return [name for name, flag in flags_of(type(arguments)).items() if flag.kind is Kind.STEPS]


def check_at_most(arguments: JobArguments, name: str, highest: int, which: str) -> None:
    """Refuse a number above a bound that is known only now, such as the positions of a model.

    Args:
        arguments: of a job.
        name: of the argument, which has a lowest value of its own.
        highest: the bound.
        which: what it is, for people.

    Raises:
        UserError: it is higher.
    """
    value, bounds = getattr(arguments, name), flags_of(type(arguments))[name].allowed
    assert isinstance(bounds, Bounds)
    if value > highest:
        raise UserError(f"--{name} is {value}, needed is {bounds.at_least} to {highest}, {which}")


def named_steps(arguments: JobArguments, name: str) -> range:
    """The steps, counted from 1, that an argument of `ranges_of` names: one, as in "10", or several, as in "10-12".

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


def traced_steps(arguments: JobArguments) -> range | int:
    """The steps to trace: those that ``--trace_steps`` names, or with ``--trace`` alone how many of the last ones.

    Raises:
        UserError: ``--trace_steps`` is given and names none.
    """
    return named_steps(arguments, "trace_steps") or (TRACED if arguments.trace else 0)
