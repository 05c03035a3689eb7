"""The frame around a job: its output folder, its failures, and what it says at the end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist

from ds_bert.checkpoint import folders
from ds_bert.command_line import launcher_world
from ds_bert.engine.engine import Engine
from ds_bert.engine.heartbeat import SILENCE, Heartbeat
from ds_bert.engine.process_group import Grid
from ds_bert.engine.settings import EngineSettings
from ds_bert.engine.timeline import Span
from ds_bert.errors import JobFailure, UserError
from ds_bert.files import write_atomically, write_json
from ds_bert.schedules import SCHEDULES
from ds_bert.schedules.simulator import bubble_share
from ds_bert.stage_map import StageMap, to_json
from ds_bert.terminal import fact
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.consistency import check_same_run
from ds_bert.training.log import Measures, RunLog, draw_course, read_log, terminal_charts
from ds_bert.training.loop import Outcome
from ds_bert.training.meter import Meter
from ds_bert.training.trace import keep_trace

T = TypeVar("T")


def claim_run(
    arguments: TrainingArguments, stage_map: StageMap, model: Mapping[str, Any], data: str | None
) -> Path | None:
    """Take hold of ``output_dir`` and return the checkpoint to resume from, if any.

    A throughput run leaves it alone: it takes ``report_dir``, and moves aside what an earlier one has left there.

    Args:
        arguments, stage_map, model: of the job.
        data: fingerprint of the training data; None on a process that reads none.

    Raises:
        UserError: the folder is not empty, or its newest checkpoint is damaged or of another kind of run.
    """
    output_dir = arguments.run_dir
    if not output_dir:
        if arguments.report_dir:
            claim_output_dir(arguments.report_dir, resume=False, overwrite=True)
        return None
    claim_output_dir(output_dir, arguments.resume, arguments.overwrite_output_dir)
    checkpoint = folders.newest_checkpoint(output_dir) if arguments.resume else None
    if checkpoint:
        check_same_run(checkpoint, arguments, stage_map, model, data)
    return checkpoint


def claim_output_dir(output_dir: Path, resume: bool, overwrite: bool) -> None:
    """Make sure, before the ranks meet, that a job may write into ``output_dir``.

    The launcher's first rank makes the folder, or moves aside what is there. The others only look whether it is free,
    so that none waits for a first rank that has refused it: nothing is written there before all have met.

    Raises:
        UserError: the folder holds something, and neither ``resume`` nor ``overwrite`` says what to do about it.
    """
    if launcher_world()[0] == 0:
        folders.claim_output_dir(output_dir, resume, overwrite)
    elif not (resume or overwrite):
        folders.refuse_occupied(output_dir)


def keep_settings(engine: Engine, arguments: TrainingArguments, stage_map: StageMap) -> None:
    """Write what the run was told into its folder, once nothing can be wrong with it any more."""
    if engine.grid.rank == 0 and arguments.run_dir:
        write_json(arguments.run_dir / "arguments.json", asdict(arguments))
        write_atomically(arguments.run_dir / "stage_map.json", to_json(stage_map))


def share(engine: Engine, value: T) -> T:
    """Tell all processes rank 0's value."""
    box = [value]
    dist.broadcast_object_list(box, src=0, group=engine.control)
    return box[0]


@contextmanager
def failing_by_name(
    grid: Grid,
    steps_done: Callable[[], int] = lambda: 0,
    heartbeat_timeout: float = SILENCE,
    output_dir: str | Path | None = None,
) -> Iterator[Heartbeat]:
    """Let a failure say which rank (the launcher's, as in the map), stage and step it met; end when a peer has died.

    Args:
        grid: of this process.
        steps_done: says how many steps it has done; the heartbeat's attribute, for an engine that is yet to be built.
        heartbeat_timeout: seconds without a sign of life after which a process is given up.
        output_dir: where what explains a failure is kept; None for a temporary folder.
    """
    heartbeat = Heartbeat(grid, steps_done, heartbeat_timeout, output_dir)
    try:
        yield heartbeat
    except UserError as error:
        heartbeat.stop(str(error))
        raise
    except Exception as error:
        heartbeat.fail(error)
        raise
    finally:
        heartbeat.stop()
        heartbeat.steps_done = lambda: 0  # the engine that it asked may go


def conclude(
    engine: Engine,
    arguments: TrainingArguments,
    stage_map: StageMap,
    outcome: Outcome,
    log: RunLog,
    meter: Meter,
    measures: Measures | None = None,
) -> int:
    """Write charts and the summary, print them on rank 0, and return the exit status: 0, or 128 + signal.

    Args:
        engine, arguments, stage_map: of the job.
        outcome: how it ended.
        log, meter: of the run.
        measures: what charts show of evaluations; None: all but the losses, as shares.
    """
    figures = summarize(engine, outcome, arguments.gradient_accumulation_steps, meter)
    spans = _gather_spans(engine)
    log.close()
    if engine.grid.rank == 0:
        lines = summary_lines(figures) if outcome.samples else [f"nothing to do: step {engine.steps_done} is reached"]
        folder = arguments.report_dir
        if folder:
            if outcome.samples:
                write_json(folder / "summary.json", {**figures, "evaluation": outcome.evaluation})
            entries = read_log(folder)
            measures = measures or Measures()
            print("\n".join(terminal_charts(entries, measures)))
            lines += _draw(engine, folder, entries, measures, spans)
            if arguments.measures_speed:
                lines.append(fact("figures", f"{folder / 'summary.json'} ({arguments.output_dir} is as it was)"))
        lines.append(fact("cut", stage_map.in_words()))
        if outcome.checkpoint:
            lines.append(fact("saved", str(outcome.checkpoint)))
        if outcome.signal:
            lines.append(f"ended by signal {outcome.signal} after step {engine.steps_done}; go on with --resume")
        print("\n".join([*lines, *outcome.profile]), flush=True)
    dist.barrier(group=engine.control)  # a launcher ends all ranks as soon as one has left with a signal's status
    return 128 + outcome.signal if outcome.signal else 0


def _draw(
    engine: Engine,
    output_dir: Path,
    entries: Sequence[dict[str, Any]],
    measures: Measures,
    ranks: Sequence[Sequence[Span]],
) -> list[str]:
    """Draw what there is to draw; return lines that say where it lies."""
    lines = []
    if any("train/loss" in entry for entry in entries):
        draw_course(output_dir / "loss.png", entries, measures)
        lines.append(fact("chart", str(output_dir / "loss.png")))
    if engine.settings.traced:
        steps = engine.settings.weight_versions  # to show how one goes over into the next
        lines += keep_trace(output_dir, engine.grid.stage_map, ranks, steps)
    return lines


def _gather_spans(engine: Engine) -> list[Any]:
    """The spans of all processes, by grid rank; none where no step is traced."""
    if not engine.settings.traced:
        return []
    everyone: list[Any] = [None] * engine.grid.world_size
    dist.all_gather_object(everyone, engine.timeline.spans, group=engine.control)
    return everyone


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
            f"out of memory {_where(engine)}: {_held(engine.grid.device)}; what helps: {_remedies(engine, arguments)}"
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
        and engine.grid.num_replicas > 1,
    }
    return ", ".join(remedy for remedy, is_left in possible.items() if is_left)


def summarize(engine: Engine, outcome: Outcome, micro_batches: int, meter: Meter) -> dict[str, Any]:
    """Gather the figures of all processes; a collective call.

    Returns:
        `Meter.speeds`; the share of time each stage computed (mean of its replicas); the bubble share measured (mean
        idle share of all stages) and that of an even cut in theory; bytes sent between stages in all; and each stage's
        peak memory in bytes (of the device, or of the process on CPUs; maximum of its replicas).
    """
    seconds = max(outcome.seconds, 1e-9)
    busy_share = outcome.busy_seconds / seconds
    mine = (engine.grid.stage, busy_share, engine.execution.transport.bytes_sent, meter.peak_memory())
    everyone: list[Any] = [None] * engine.grid.world_size
    dist.all_gather_object(everyone, mine, group=engine.control)
    stages = range(engine.grid.num_stages)
    of_stage = [[figures for figures in everyone if figures[0] == stage] for stage in stages]
    busy = [sum(share for _, share, _, _ in figures) / len(figures) for figures in of_stage]
    return {
        **meter.speeds(outcome.samples, seconds),
        "busy_share_per_stage": busy,
        "bubble_share": 1.0 - sum(busy) / len(stages),
        "bubble_share_even_cut": bubble_share(SCHEDULES[engine.settings.schedule], len(stages), micro_batches),
        "bytes_sent": sum(sent for _, _, sent, _ in everyone),
        "peak_memory_per_stage": [max(peak for *_, peak in figures) for figures in of_stage],
    }


def summary_lines(figures: dict[str, Any]) -> list[str]:
    """Put the figures into words."""
    share = f"; {figures['share_of_peak']:.1%} of the peak FLOP/s" if "share_of_peak" in figures else ""
    shares = ", ".join(f"stage {stage} {share:.0%}" for stage, share in enumerate(figures["busy_share_per_stage"]))
    memory = ", ".join(f"stage {s} {peak / 2**30:.2f} GiB" for s, peak in enumerate(figures["peak_memory_per_stage"]))
    return [
        fact(
            "speed",
            f"{figures['samples_per_second']:.1f} samples/s, {figures['tokens_per_second']:,.0f} tokens/s "
            f"({figures['tokens_per_second_per_rank']:,.0f} per rank{share})",
        ),
        fact(
            "busy",
            f"{shares}; idle {figures['bubble_share']:.0%} on average "
            f"(an even cut in theory: {figures['bubble_share_even_cut']:.0%})",
        ),
        fact("memory", f"{memory} at the most"),
        fact("sent", f"{figures['bytes_sent'] / 1e6:,.1f} MB between stages"),
    ]


@contextmanager
def fp32_products(grid: Grid, settings: EngineSettings) -> Iterator[None]:
    """Let CUDA take fp32 matrix products in TF32, or in full fp32, as the run wants it, for its time; rank 0 says so.

    TF32 has fp32's range and 10 bits after the point; it needs a card of compute capability 8 or more. Nothing is
    touched on CPUs, and in runs of another precision.
    """
    if grid.device.type != "cuda" or settings.precision != "fp32":
        yield
        return
    found = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set_fp32_products("high" if settings.tf32 else "highest", settings.tf32)
    if settings.tf32 and grid.rank == 0 and torch.cuda.get_device_capability(grid.device) >= (8, 0):
        print("fp32 matrix products in TF32; --tf32 false for full fp32", flush=True)
    try:
        yield
    finally:
        _set_fp32_products(*found)


def _set_fp32_products(matmul: str, tf32: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = tf32
