"""Make the table of the GLUE experiment: both sides' means ± deviations over seeds, and whether they differ.

python docs/experiments/finetuning/table.py --results_dir results/glue [results/more_seeds …]
"""

import argparse
import json
import math
from pathlib import Path
from statistics import mean, stdev

MEASURES = {
    "MRPC": ("f1", "accuracy"),
    "STS-B": ("pearson", "spearmanr"),
    "SST-2": ("accuracy",),
    "CoLA": ("matthews_correlation",),
}


def main() -> None:
    """Print the table in Markdown; values are per cent. The bound: 2 · √(s₁²/n₁ + s₂²/n₂), two standard errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results_dir", type=Path, nargs="+", required=True, help="their seeds together")
    folders = parser.parse_args().results_dir
    print("| | ds_bert | Trainer | difference | bound |\n|---|---|---|---|---|")
    for task, names in MEASURES.items():
        ours = [json.loads(file.read_text()) for folder in folders for file in folder.glob(f"{task}/eval_results.json")]
        runs = [run for folder in folders for run in folder.glob(f"trainer_{task}_seed*.json")]
        if not (ours and runs):
            continue
        theirs = [json.loads(run.read_text())["measures"] for run in runs]
        for name in names:
            values = [value for results in ours for value in results[name]["values"]]
            sides = [[100 * value for value in values], [100 * measures[name] for measures in theirs]]
            bound = 2 * math.sqrt(sum(stdev(values) ** 2 / len(values) for values in sides))
            shown = " | ".join(f"{mean(values):.2f} ± {stdev(values):.2f}" for values in sides)
            print(f"| {task}, {name} | {shown} | {mean(sides[0]) - mean(sides[1]):+.2f} | {bound:.2f} |")


if __name__ == "__main__":
    main()
