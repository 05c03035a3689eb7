"""A bar for each task's score."""

from collections.abc import Mapping
from pathlib import Path


def draw_scores(path: Path, scores: Mapping[str, float], average: float) -> None:
    """Draw a PNG with a bar for each task and a line at their average."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(max(4.0, 0.9 * len(scores)), 4.0), layout="constrained")
    bars = axes.bar(list(scores), list(scores.values()), color="tab:blue")
    axes.bar_label(bars, fmt="%.3f", fontsize=8)
    axes.axhline(average, color="tab:orange", label=f"average {average:.3f}")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel="score")
    axes.tick_params(axis="x", rotation=30)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
