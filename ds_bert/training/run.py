"""The frame around a job: its output folder, its failures, and what it says at the end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from ds_bert.checkpoint import folders
from ds_bert.engine.engine import Engine
from ds_bert.engine.heartbeat import SILENCE, Heartbeat
from ds_bert.engine.process_group import Grid
from ds_bert.engine.timeline import Span
from ds_bert.errors import UserError
from ds_bert.files import write_atomically, write_json
from ds_bert.launcher import launcher_world
from ds_bert.stage_map import StageMap, to_json
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.charts import Measures, draw_course, terminal_charts
from ds_bert.training.log import RunLog, read_log
from ds_bert.training.loop import Outcome
from ds_bert.training.meter import Meter
from ds_bert.training.resumption import check_same_run
from ds_bert.training.summary import summarize, summary_lines
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
    if engine.place.rank == 0 and arguments.run_dir:
        write_json(arguments.run_dir / "arguments.json", asdict(arguments))
        write_atomically(arguments.run_dir / "stage_map.json", to_json(stage_map))


def share(engine: Engine, value: T) -> T:
    """Tell all processes rank 0's value."""
    box = [value]
    dist.broadcast_object_list(box, src=0, group=engine.control)
    return box[0]


@contextmanager
def failing_by_name(
    place: Grid,
    steps_done: Callable[[], int] = lambda: 0,
    heartbeat_timeout: float = SILENCE,
    output_dir: str | Path | None = None,
) -> Iterator[Heartbeat]:
    """Let a failure say which rank (the launcher's, as in the map), stage and step it met; end when a peer has died.

    Args:
        place: of this process.
        steps_done: says how many steps it has done; the heartbeat's attribute, for an engine that is yet to be built.
        heartbeat_timeout: seconds without a sign of life after which a process is given up.
        output_dir: where what explains a failure is kept; None for a temporary folder.
    """
    heartbeat = Heartbeat(place, steps_done, heartbeat_timeout, output_dir)
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
    if engine.place.rank == 0:
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
                lines.append(f"figures: {folder / 'summary.json'} ({arguments.output_dir} is as it was)")
        lines.append(f"cut:    {stage_map.in_words()}")
        if outcome.checkpoint:
            lines.append(f"saved:  {outcome.checkpoint}")
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
        lines.append(f"chart:  {output_dir / 'loss.png'}")
    if engine.settings.traced:
        steps = engine.settings.weight_versions  # to show how one goes over into the next
        lines += keep_trace(output_dir, engine.place.stage_map, ranks, steps)
    return lines


def _gather_spans(engine: Engine) -> list[Any]:
    """The spans of all processes, by grid rank; none where no step is traced."""
    if not engine.settings.traced:
        return []
    everyone: list[Any] = [None] * engine.place.world_size
    dist.all_gather_object(everyone, engine.timeline.spans, group=engine.control)
    return everyone
