"""A bar for each task's score."""

from collections.abc import Mapping
from pathlib import Path

from ds_bert.tasks.task import SCORE


def draw_scores(path: Path, scores: Mapping[str, float], average: float) -> None:
    """Draw a PNG with a bar for each task and a line at their average."""
    from matplotlib.figure import Figure  # not pyplot, whose state may be a notebook's

    figure = Figure(figsize=(max(4.0, 0.9 * len(scores)), 4.0), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(list(scores), list(scores.values()), color="tab:blue")
    axes.axhline(average, color="tab:orange", label=f"average {average:.3f}", zorder=0)
    axes.bar_label(bars, fmt="%.3f", fontsize=8, padding=1, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel=f"held out ({SCORE})")
    axes.margins(y=0.1)
    for label in axes.get_xticklabels():
        label.set(rotation=30, ha="right", rotation_mode="anchor")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.savefig(path, dpi=120)
