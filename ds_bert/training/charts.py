"""What people look at while and after training: the loss in the terminal and as a PNG."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEIGHT, WIDTH = 10, 64


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


def draw_loss(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Draw a PNG with the training and held-out losses of a log."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for key, label in (
        ("train/loss", "training"),
        ("train/mlm_loss", "training, masked words"),
        ("eval/loss", "held out"),
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
