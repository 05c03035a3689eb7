"""A bar for each task's score."""

from collections.abc import Mapping
from pathlib import Path

from ds_bert.tasks.task import SCORE


def draw_scores(path: Path, scores: Mapping[str, float], average: float) -> None:
    """Draw a PNG with a bar for each task and a line at their average."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(max(4.0, 0.9 * len(scores)), 4.0), layout="constrained")
    bars = axes.bar(list(scores), list(scores.values()), color="tab:blue")
    axes.axhline(average, color="tab:orange", label=f"average {average:.3f}", zorder=0)
    axes.bar_label(bars, fmt="%.3f", fontsize=8, padding=1, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel=f"held out ({SCORE})")
    axes.margins(y=0.1)
    pyplot.setp(axes.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
