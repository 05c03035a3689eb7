"""A device or machine out of memory: where it happened, and what would help."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from ds_bert.engine.engine import Engine
from ds_bert.errors import JobFailure
from ds_bert.training.arguments import TrainingArguments

# What torch, cuBLAS and the CPU's allocator say; torch.OutOfMemoryError has "out of memory", too.
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemory(JobFailure):
    """There is not enough memory for what a job wants to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def explaining_out_of_memory(engine: Engine, arguments: TrainingArguments) -> Iterator[None]:
    """Turn an error of that kind into a sentence that says where it was met and what would help.

    Raises:
        OutOfMemory: in the place of such an error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory {_where(engine)}: {_held(engine.place.device)}; what helps: {_remedies(engine, arguments)}"
        ) from error


def _where(engine: Engine) -> str:
    number, total = engine.execution.under_way, engine.micro_batches
    if not engine.module.training:
        return "while evaluating" + ("" if number is None else f", micro-batch {number + 1}")
    step = engine.steps_done
    if number is None:
        return f"in step {step + 1}"
    if engine.settings.never_drains:  # which numbers micro-batches on from step to step
        step = number // total
    return f"in step {step + 1}, micro-batch {number % total + 1} of {total}"


def _held(device: torch.device) -> str:
    if device.type == "cuda":
        allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        _, total = torch.cuda.mem_get_info(device)
        return f"{_gib(allocated)} allocated and {_gib(reserved)} reserved of the device's {_gib(total)}"
    machine = psutil.virtual_memory()
    return (
        f"this process holds {_gib(psutil.Process().memory_info().rss)}, {_gib(machine.available)} of the machine's "
        f"{_gib(machine.total)} are free"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _remedies(engine: Engine, arguments: TrainingArguments) -> str:
    """What the run does not do yet, that which changes nothing of its numbers first."""
    if not engine.module.training:
        return f"a smaller --per_device_eval_batch_size (now {arguments.per_device_eval_batch_size})"
    settings, size = engine.settings, arguments.per_device_train_batch_size
    possible = {
        f"a smaller --per_device_train_batch_size (now {size}) with more --gradient_accumulation_steps (now "
        f"{arguments.gradient_accumulation_steps})": size > 1,
        "--gradient_checkpointing": not settings.recompute,
        "--schedule 1f1b": settings.schedule != "1f1b",
        "more stages (--num_stages, --stage_map)": True,
        "ZeRO stage 1 (zero_optimization.stage in --deepspeed_config)": not settings.zero_stage
        and engine.place.num_replicas > 1,
    }
    return ", ".join(remedy for remedy, is_left in possible.items() if is_left)
