"""Meta-training on two stages: tasks/s with one task in flight and with several.

    python tests/benchmarks/meta_tasks.py --model checkpoint/ --tasks data/smlmt

Both run in turn, round after round, on the same tasks with the same settings: adapters, first order.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from jobs import medians, train


def measure(flags: argparse.Namespace, in_flight: int) -> float:
    """Meta-train for some steps and return tasks/s."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *("ds_configs/meta/meta_adapters.json", "--model_name_or_path", flags.model),
            *("--task_train_files", flags.tasks, "--max_seq_length", flags.max_seq_length, "--max_steps", flags.steps),
            *("--gradient_accumulation_steps", max(flags.in_flight), "--tasks_in_flight", in_flight),
        ]
        return train("meta_train", words, Path(folder) / "run")


def main() -> None:
    """Print tasks/s for each number of tasks in flight, and the ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint")
    parser.add_argument("--tasks", type=Path, required=True, help="folder of ds-bert tasks")
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--in_flight", type=int, nargs="+", default=[1, 4], help="each must divide the largest")
    parser.add_argument("--steps", type=int, default=4, help="outer steps; the first is not counted")
    parser.add_argument("--rounds", type=int, default=1)
    flags = parser.parse_args()
    speeds = medians(flags.in_flight, flags.rounds, partial(measure, flags), "tasks/s")
    for number, speed in speeds.items():
        print(f"{number} in flight: {speed:6.2f} tasks/s, {speed / speeds[flags.in_flight[0]]:.2f} times")


if __name__ == "__main__":
    main()
