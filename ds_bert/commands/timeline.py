"""`ds-bert timeline`: draw the schedule of a run as it ran, and say where it idled."""

import argparse
from pathlib import Path

from ds_bert.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="RUN", type=Path, help="output_dir of a run with --trace")
    parser.add_argument("--step", type=int, help="last step to draw (default: the last but one)")
    parser.add_argument("--steps", type=int, default=3, help="how many steps to draw (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Write ``timeline.png`` and print each rank's busy share and the idle time between global batches."""
    from ds_bert.training import trace

    ranks, stages = trace.read_trace(arguments.folder)
    last = trace.last_training_step(ranks)
    step = max(last - 1, 0) if arguments.step is None else arguments.step
    if arguments.steps < 1 or not 0 <= step <= last:
        shown = f"--step {step} and --steps {arguments.steps}"
        raise UserError(f"{shown}: the run has steps 0 to {last}, needed is one of them and at least one to draw")
    path = arguments.folder / "timeline.png"
    trace.draw_schedule(path, ranks, stages, max(0, step - arguments.steps + 1), step)
    for rank, (spans, stage) in enumerate(zip(ranks, stages, strict=True)):
        computed = [span for span in trace.computations(spans) if 0 < span.step < last]
        if computed:
            busy = sum(span.end - span.begin for span in computed) / (computed[-1].end - computed[0].begin)
            print(f"rank {rank}, stage {stage}: busy {busy:.1%} of steps 1 to {last - 1}")
    slowest = trace.busiest_rank(ranks)
    between = trace.idle_between_batches(ranks[slowest])
    if between:
        share = sorted(gap / whole for gap, whole in between)[len(between) // 2]
        print(f"rank {slowest} idles for {share:.2%} of a step between two global batches (median)")
    print(f"{path}: steps {max(0, step - arguments.steps + 1)} to {step}")
    print(f"{arguments.folder / trace.TRACE}: open it at ui.perfetto.dev or chrome://tracing")
