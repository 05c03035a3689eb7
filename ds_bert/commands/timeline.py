"""`ds-bert timeline`: draw the schedule of a run as it ran, and say where it idled."""

import argparse
from pathlib import Path

from ds_bert.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="RUN", type=Path, help="output_dir of a run with --trace or --trace_steps")
    parser.add_argument(
        "--step", type=int, help="last step to draw, counted from 1 (default: the last but one of the trace)"
    )
    parser.add_argument("--steps", type=int, default=3, help="how many steps to draw")


def run(arguments: argparse.Namespace) -> None:
    """Write ``timeline.png`` and print each rank's busy share and the idle time between global batches."""
    from ds_bert.training import trace

    ranks, stages = trace.read_trace(arguments.folder)
    traced = trace.training_steps(ranks)
    if not traced:
        raise UserError(f"{arguments.folder / trace.TRACE}: has no training step, needed is one at least")
    inner = trace.inner_steps(traced)
    last = inner[-1] if arguments.step is None else arguments.step
    if arguments.steps < 1 or last not in traced:
        shown = f"--step {last} and --steps {arguments.steps}"
        held = trace.spell_steps(traced)
        raise UserError(f"{shown}: the trace has {held}, needed is one of them and at least one to draw")
    drawn = range(max(traced[0], last - arguments.steps + 1), last + 1)
    path = arguments.folder / "timeline.png"
    trace.draw_schedule(path, ranks, stages, drawn[0], drawn[-1])
    for rank, (spans, stage) in enumerate(zip(ranks, stages, strict=True)):
        computed = [span for span in trace.computations(spans) if span.step in inner]
        if computed:
            busy = sum(span.end - span.begin for span in computed) / (computed[-1].end - computed[0].begin)
            print(f"rank {rank}, stage {stage}: busy {busy:.1%} of {trace.spell_steps(inner)}")
    slowest = trace.busiest_rank(ranks)
    between = trace.idle_between_batches(ranks[slowest], inner)
    if between:
        share = sorted(gap / whole for gap, whole in between)[len(between) // 2]
        print(f"rank {slowest} idles for {share:.2%} of a step between two global batches (median)")
    print(f"{path}: {trace.spell_steps(drawn)}")
    print(f"{arguments.folder / trace.TRACE}: open it at ui.perfetto.dev or chrome://tracing")
