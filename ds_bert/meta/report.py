"""What few-shot fine-tuning found: a table and a chart over k."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Results = Mapping[str, Mapping[str, Any]]
"""By "method/k/split": what was measured, "accuracy" among it."""


def key_of(method: str, k: int, split: int) -> str:
    """The name of one result."""
    return f"{method}/{k}/{split}"


def summarize(results: Results) -> dict[str, dict[int, dict[str, float]]]:
    """Return mean, sample deviation and number of splits, by method and k."""
    accuracies: dict[tuple[str, int], list[float]] = {}
    for key, result in results.items():
        method, size, _ = key.split("/")
        accuracies.setdefault((method, int(size)), []).append(result["accuracy"])
    summary: dict[str, dict[int, dict[str, float]]] = {}
    for (method, k), values in sorted(accuracies.items(), key=lambda item: item[0][1]):
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        found = {"mean": statistics.mean(values), "deviation": deviation, "splits": len(values)}
        summary.setdefault(method, {})[k] = found
    return summary


def table(name: str, summary: Mapping[str, Mapping[int, Mapping[str, float]]]) -> list[str]:
    """Lines of a Markdown table: a row per method, a column per k, accuracy in percent, mean ± deviation."""
    sizes = sorted({k for row in summary.values() for k in row})
    lines = [f"| {name} | " + " | ".join(f"k = {k}" for k in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for method, row in summary.items():
        cells = [
            f"{100 * row[k]['mean']:.1f} ± {100 * row[k]['deviation']:.1f} ({row[k]['splits']:.0f})"
            if k in row
            else "–"
            for k in sizes
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def draw(path: Path, name: str, summary: Mapping[str, Mapping[int, Mapping[str, float]]]) -> None:
    """Draw accuracy over k, with deviations, as a PNG."""
    from matplotlib.figure import Figure  # not pyplot, whose state may be a notebook's

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    sizes: Sequence[int] = sorted({k for row in summary.values() for k in row})
    for method, row in summary.items():
        known = [k for k in sizes if k in row]
        means, deviations = ([row[k][kind] for k in known] for kind in ("mean", "deviation"))
        axes.errorbar(known, means, yerr=deviations, marker="o", capsize=3, label=method)
    axes.set(xlabel="k, examples of each class", ylabel="accuracy", title=name, xticks=sizes)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
