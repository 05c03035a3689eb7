"""What people look at: the loss in the terminal and as a PNG, the schedule as it ran as a PNG."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ds_bert.engine.timeline import Span

HEIGHT, WIDTH = 10, 64
COLOURS = {"forward": "#4878d0", "backward": "#ee854a", "reduce": "#6acc64", "step": "#956cb4"}


def terminal_chart(entries: Sequence[dict[str, Any]], key: str) -> list[str]:
    """Draw ``key`` over steps with text: a column is the mean of its share of the entries."""
    points = [(entry["step"], entry[key]) for entry in entries if math.isfinite(entry.get(key, math.nan))]
    if len(points) < 2:
        return []
    values = [value for _, value in points]
    columns = min(WIDTH, len(values))
    means = []
    for column in range(columns):
        part = values[column * len(values) // columns : (column + 1) * len(values) // columns]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    levels = [round((mean - low) / ((high - low) or 1.0) * (HEIGHT - 1)) for mean in means]
    rows = []
    for row in reversed(range(HEIGHT)):
        label = f"{low + (high - low) * row / (HEIGHT - 1):7.3f}"
        rows.append(f"{label} ┤" + "".join("●" if level == row else " " for level in levels))
    rows.append(" " * 8 + "└" + "─" * columns)
    rows.append(f"{key}, steps {points[0][0]} to {points[-1][0]}".rjust(9 + columns))
    return rows


def draw_run(output_dir: Path, entries: Sequence[dict[str, Any]], spans: Sequence[Sequence[Span]]) -> list[str]:
    """Write `loss.png` and, where spans were kept, `schedule.png`; return lines that say where."""
    import matplotlib

    matplotlib.use("Agg")
    lines = []
    if any("train/loss" in entry for entry in entries):
        _draw_loss(output_dir / "loss.png", entries)
        lines.append(f"chart: {output_dir / 'loss.png'}")
    if any(span.kind == "backward" for rank in spans for span in rank):
        _draw_schedule(output_dir / "schedule.png", spans)
        lines.append(f"chart: {output_dir / 'schedule.png'} (the schedule as it ran)")
    return lines


def _draw_loss(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for key, label in (
        ("train/loss", "training"),
        ("train/mlm_loss", "training, masked words"),
        ("eval/mlm_loss", "held out, masked words"),
    ):
        points = [(entry["step"], entry[key]) for entry in entries if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if key.startswith("eval") else None)
    axes.set(xlabel="optimizer step", ylabel="loss (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_schedule(path: Path, spans: Sequence[Sequence[Span]]) -> None:
    """One row per rank, one box per forward and backward, of the last training step."""
    from matplotlib import patches, pyplot

    last = max(span.step for rank in spans for span in rank if span.kind == "backward")
    shown = [[span for span in rank if span.step == last and span.kind in COLOURS] for rank in spans]
    begin = min(span.begin for rank in shown for span in rank)
    figure, axes = pyplot.subplots(figsize=(12, 1.2 + 0.7 * len(shown)), layout="constrained")
    for row, rank in enumerate(shown):
        for span in rank:
            left, width = (span.begin - begin) * 1e3, (span.end - span.begin) * 1e3
            axes.barh(row, width, left=left, color=COLOURS[span.kind], edgecolor="white", height=0.8)
            if span.micro_batch >= 0:
                axes.text(left + width / 2, row, span.micro_batch, ha="center", va="center", color="white", fontsize=8)
    axes.set(xlabel=f"milliseconds of step {last}", yticks=range(len(shown)))
    axes.set_yticklabels([f"rank {rank}" for rank in range(len(shown))])
    axes.invert_yaxis()
    handles = [patches.Patch(color=colour, label=kind) for kind, colour in COLOURS.items()]
    axes.legend(handles=handles, ncols=len(handles), loc="upper center", bbox_to_anchor=(0.5, 1.25), frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
