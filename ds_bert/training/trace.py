"""Some steps in detail: a trace of who did what when, for Perfetto and as a picture, and torch's profile."""

import ctypes
import json
from collections.abc import Sequence
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from ds_bert.engine.process_group import Grid
from ds_bert.engine.timeline import COMPUTE, Span
from ds_bert.errors import UserError
from ds_bert.files import read_json, write_atomically
from ds_bert.stage_map import StageMap
from ds_bert.terminal import fact

TRACE, PICTURE = "trace.json", "schedule.png"
_DIGIT = 0.008  # of the picture's width is what a digit takes; a box that is narrower has no number
COLOURS = {"forward": "#4878d0", "backward": "#ee854a", "reduce": "#6acc64", "step": "#956cb4"}


def keep_trace(folder: Path, stage_map: StageMap, of_processes: Sequence[Sequence[Span]], steps: int = 1) -> list[str]:
    """Write a run's trace, and draw its last steps; return lines that say where both lie.

    Args:
        folder: of the run.
        stage_map: which layers ran where.
        of_processes: the spans of every process, by grid rank.
        steps: how many to draw.
    """
    by_launcher = range(stage_map.world_size)  # the numbers that people know processes by
    ranks = [of_processes[stage_map.grid_rank(rank)] for rank in by_launcher]
    stages = [stage_map.position(rank)[0] for rank in by_launcher]
    traced = training_steps(ranks)
    if not traced:
        return [fact("trace", "none of the steps to trace was trained now")]
    drawn = traced[-steps:]
    draw_schedule(folder / PICTURE, ranks, stages, drawn[0], drawn[-1])
    return [
        fact("chart", f"{folder / PICTURE} (the schedule as it ran)"),
        fact(
            "trace",
            f"{write_trace(folder, ranks, stages)} ({spell_steps(traced)}, for Perfetto, and `ds-bert timeline`)",
        ),
    ]


def write_trace(output_dir: Path, ranks: Sequence[Sequence[Span]], stages: Sequence[int]) -> Path:
    """Write `trace.json` in the Trace Event Format: a process per rank, times in microseconds.

    Args:
        output_dir: the run's folder.
        ranks: the spans of every rank.
        stages: the stage of every rank.
    """
    origin = min(span.begin for spans in ranks for span in spans)
    events: list[dict] = []
    for rank, (spans, stage) in enumerate(zip(ranks, stages, strict=True)):
        name = {"name": f"rank {rank}, stage {stage}"}
        events.append({"name": "process_name", "ph": "M", "pid": rank, "args": name | {"stage": stage}})
        for span in spans:
            event = {"name": span.kind, "ph": "X", "pid": rank, "tid": 0}
            times = {"ts": round((span.begin - origin) * 1e6, 1), "dur": round((span.end - span.begin) * 1e6, 1)}
            events.append(event | times | {"args": {"step": span.step, "micro_batch": span.micro_batch}})
    path = output_dir / TRACE
    write_atomically(path, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
    return path


def read_trace(output_dir: Path) -> tuple[list[list[Span]], list[int]]:
    """Read what `write_trace` wrote: (spans of every rank, in seconds from the first; stage of every rank).

    Raises:
        UserError: the run has no trace, or it is not one of ours.
    """
    path = output_dir / TRACE
    if not path.is_file():
        raise UserError(f"{output_dir}: has no {TRACE}; needed is the folder of a run with --trace or --trace_steps")
    ranks: dict[int, list[Span]] = {}
    stages: dict[int, int] = {}
    try:
        for event in read_json(path)["traceEvents"]:
            if event["ph"] == "M":
                stages[event["pid"]], ranks[event["pid"]] = event["args"]["stage"], []
            else:
                begin, computed = event["ts"] / 1e6, event["args"]
                end = begin + event["dur"] / 1e6
                ranks[event["pid"]].append(Span(event["name"], computed["step"], computed["micro_batch"], begin, end))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a trace of ds_bert ({type(error).__name__}: {error})") from None
    return [ranks[rank] for rank in sorted(ranks)], [stages[rank] for rank in sorted(stages)]


def busiest_rank(ranks: Sequence[Sequence[Span]]) -> int:
    """The rank that computed longest."""
    return max(range(len(ranks)), key=lambda rank: sum(span.end - span.begin for span in computations(ranks[rank])))


def computations(spans: Sequence[Span]) -> list[Span]:
    """The forwards and backwards among spans."""
    return [span for span in spans if span.kind in COMPUTE]


def idle_between_batches(spans: Sequence[Span], steps: range) -> list[tuple[float, float]]:
    """How a rank gets from one global batch to the next.

    Returns:
        For each of the steps that lies between two others of the trace: (seconds between the end of the last
        computation of the step before and the begin of its first, seconds from the begin of its first to the begin of
        the next step's first).
    """
    by_step: dict[int, list[Span]] = {}
    for span in computations(spans):
        by_step.setdefault(span.step, []).append(span)
    idle = []
    for step in steps:
        if step - 1 in by_step and step in by_step and step + 1 in by_step:
            gap = by_step[step][0].begin - by_step[step - 1][-1].end
            idle.append((gap, by_step[step + 1][0].begin - by_step[step][0].begin))
    return idle


def draw_schedule(
    path: Path, ranks: Sequence[Sequence[Span]], stages: Sequence[int], first_step: int, last_step: int
) -> None:
    """Draw a PNG with a row per rank and a box per forward and backward of some training steps, counted from 1."""
    from matplotlib import patches
    from matplotlib.figure import Figure  # not pyplot, whose state may be a notebook's

    steps = range(first_step, last_step + 1)
    shown = [[span for span in spans if span.step in steps and span.kind in COLOURS] for spans in ranks]
    begin = min(span.begin for spans in shown for span in spans)
    digit = (max(span.end for spans in shown for span in spans) - begin) * 1e3 * _DIGIT
    figure = Figure(figsize=(12, 1.2 + 0.7 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for row, spans in enumerate(shown):
        for span in spans:
            left, width = (span.begin - begin) * 1e3, (span.end - span.begin) * 1e3
            axes.barh(row, width, left=left, color=COLOURS[span.kind], edgecolor="white", height=0.8)
            if span.micro_batch >= 0 and width > digit * len(str(span.micro_batch)):
                axes.text(left + width / 2, row, span.micro_batch, ha="center", va="center", color="white", fontsize=7)
    which = spell_steps(range(first_step, last_step + 1))
    axes.set(xlabel=f"milliseconds of {which}; numbers are micro-batches", yticks=range(len(shown)))
    axes.set_yticklabels([f"rank {rank}, stage {stage}" for rank, stage in enumerate(stages)])
    axes.invert_yaxis()
    handles = [patches.Patch(color=colour, label=kind) for kind, colour in COLOURS.items()]
    axes.legend(handles=handles, ncols=len(handles), loc="upper center", bbox_to_anchor=(0.5, 1.25), frameon=False)
    figure.savefig(path, dpi=120)


def training_steps(ranks: Sequence[Sequence[Span]]) -> range:
    """The steps, from the first to the last, in which anything was computed backwards; none where nothing was."""
    found = {span.step for spans in ranks for span in spans if span.kind == "backward"}
    return range(min(found), max(found) + 1) if found else range(0)


def inner_steps(steps: range) -> range:
    """Those that tell how training runs: without the first and the last, in which it begins or ends; if there are more.

    The first step of a run warms up, and under 2BW a step begins and ends while its neighbours are under way.
    """
    return steps[1:-1] or steps


def spell_steps(steps: range) -> str:
    """Return "step 3", or "steps 3 to 5"."""
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"


FOLDER = "profile"
_ROWS = 12  # of the table


class Profiler:
    """Profiles some steps.

    Args:
        steps: those that ``--profile_steps`` names, counted from 1.
        folder: the job's, for the files; None: this one.
        grid: of this process.
    """

    def __init__(self, steps: range, folder: Path | None, grid: Grid) -> None:
        self.steps, self.grid = steps, grid
        self._folder = (folder or Path()) / FOLDER
        self._running: profile | None = None
        self._lines: list[str] = []

    def reach(self, step: int) -> None:
        """Begin or end profiling, if it is time to, before ``step`` (from 1) begins."""
        if step in self.steps and self._running is None:
            device = [ProfilerActivity.CUDA] if self.grid.device.type == "cuda" else []
            self._running = profile(activities=[ProfilerActivity.CPU, *device])
            self._running.start()
            self._first = step
        elif step not in self.steps and self._running is not None:
            self._stop(step - 1)

    def end(self, last: int) -> list[str]:
        """End profiling after step ``last``, if that is still to be done; return the table in lines."""
        if self._running is not None:
            self._stop(last)
        return self._lines

    def abandon(self) -> None:
        """End profiling after a failure: torch runs one profiler at a time, and the process may go on."""
        if self._running is not None:
            self._running.stop()
            _keep_for_ever(self._running)

    def _stop(self, last: int) -> None:
        assert self._running is not None
        finished, self._running = self._running, None
        finished.stop()
        _keep_for_ever(finished)
        path = self._folder / f"rank-{self.grid.stage_map.launcher_rank(self.grid.rank)}.json.gz"
        steps = f"steps {self._first} to {last}"
        try:
            self._folder.mkdir(exist_ok=True)
            finished.export_chrome_trace(str(path))
            self._lines = [f"profile: {self._folder} ({steps}, a file per rank, for Perfetto)"]
        except (OSError, RuntimeError) as error:
            self._lines = [f"profile: {path} could not be written: {error}"]
        unit = "device" if self.grid.device.type == "cuda" else "cpu"
        averages = finished.key_averages()
        table = averages.table(sort_by=f"self_{unit}_time_total", row_limit=_ROWS, max_name_column_width=40)
        self._lines += [f"operations of {self.grid} by their own time, {steps}:", *table.splitlines()]


def _keep_for_ever(finished: profile) -> None:
    """Let nobody free what has been profiled, not even the interpreter's end.

    In torch 2.13 libkineto crashes as it frees it (`MemoryTraceLogger`'s destructor), most times in a job of several
    processes, whenever Python collects its garbage next: in the midst of a step, or of the charts at the end.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(finished))
