"""Multi-task training on two stages: samples/s of plain BERT, of CA-MTL-base, and of CA-MTL-base with MT-Uncertainty.

    python tests/benchmarks/many_tasks.py --model checkpoint/ --data glue/

All run in turn, round after round, on the same tasks. With MT-Uncertainty the scoring is counted, too.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from jobs import medians, train

SYSTEMS = {
    "plain": ("--conditional", "none", "--task_sampling", "uniform"),
    "CA-MTL-base": ("--conditional", "base", "--task_sampling", "uniform"),
    "CA-MTL-base, MT-Uncertainty": ("--conditional", "base", "--use_mt_uncertainty"),
}


def measure(flags: argparse.Namespace, system: str) -> float:
    """Train for some steps and return samples/s."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *("--model_name_or_path", flags.model, "--data_dir", flags.data, "--tasks", *flags.tasks, *SYSTEMS[system]),
            *("--do_train", "--max_train_samples", 500, "--max_steps", flags.steps, "--max_seq_length", 128),
            *("--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 4, "--seed", 12),
        ]
        return train("multitask", words, Path(folder) / "run")


def main() -> None:
    """Print samples/s of each, and how long its step is beside plain BERT's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="GLUE's folder")
    parser.add_argument("--tasks", nargs="+", default=["CoLA", "MNLI", "STS-B", "MRPC"])
    parser.add_argument("--steps", type=int, default=30, help="the first is not counted")
    parser.add_argument("--rounds", type=int, default=1)
    flags = parser.parse_args()
    speeds = medians(SYSTEMS, flags.rounds, partial(measure, flags), "samples/s")
    for system, speed in speeds.items():
        print(f"{system:<28} {speed:8.2f} samples/s, step time {speeds['plain'] / speed:.2f} times plain's")


if __name__ == "__main__":
    main()
