"""Draw one logged figure of several runs, such as the held-out loss, in one chart; --help says how."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from ds_bert.training.log import read_log

Points = list[tuple[float, float]]


def means(points: Points, count: int) -> Points:
    """Return the mean of each `count` points in a row, at the last one's step; the last mean may be of fewer."""
    parts = [points[start : start + count] for start in range(0, len(points), count)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def main() -> None:
    """Write the chart and print each run's last point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="output_dir of runs")
    parser.add_argument("--key", default="eval/mlm_loss", help="entry of log.jsonl to draw")
    parser.add_argument("--mean_of", type=int, default=1, help="entries a point is the mean of")
    parser.add_argument("--line", nargs=2, metavar=("VALUE", "LABEL"), help="a level to compare with")
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    arguments = parser.parse_args()

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for run in arguments.runs:
        logged = [(entry["step"], entry[arguments.key]) for entry in read_log(run) if arguments.key in entry]
        points = means(logged, arguments.mean_of)
        axes.plot(*zip(*points, strict=True), marker="o", label=run.name)
        print(f"{run.name}: {arguments.key} {points[-1][1]:.4f} at step {points[-1][0]}")
    if arguments.line:
        axes.axhline(float(arguments.line[0]), color="gray", linestyle="--", label=arguments.line[1])
    axes.set(xlabel="optimizer step", ylabel=f"{arguments.key} (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(arguments.output, dpi=120)


if __name__ == "__main__":
    main()
