"""Make the table of the multi-task experiment: mean ± deviation over seeds, for each task and on average.

python docs/experiments/multitask/table.py --results_dir results/
"""

import argparse
import json
from pathlib import Path

COLUMNS = ("cola", "mnli", "rte", "qqp", "stsb", "sst2", "qnli", "mrpc", "average", "spread")
ROWS = {
    "plain": "plain multi-task",
    "ca-mtl": "CA-MTL-base, in proportion",
    "ca-mtl-uncertainty": "CA-MTL-base, MT-Uncertainty",
}


def main() -> None:
    """Print the table in Markdown; values are per cent. The last column: share of the examples that were trained on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results_dir", type=Path, required=True)
    folder = parser.parse_args().results_dir
    print(f"| | {' | '.join(COLUMNS)} | data seen |\n|{'---|' * (len(COLUMNS) + 2)}")
    for name, title in ROWS.items():
        results = json.loads((folder / name / "eval_results.json").read_text())
        cells = [
            f"{100 * results[column]['mean']:.1f} ± {100 * results[column]['deviation']:.1f}" for column in COLUMNS
        ]
        seen = [json.loads((folder / name / f"seed-{seed}" / "data_seen.json").read_text())["all"]
                for seed in results["seeds"]]  # fmt: skip
        print(f"| {title} | {' | '.join(cells)} | {100 * sum(seen) / len(seen):.0f} % |")


if __name__ == "__main__":
    main()
