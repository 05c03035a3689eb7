"""Whole jobs as users start them, on two processes of one thread each, for the benchmarks that compare jobs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

System = TypeVar("System")
REPOSITORY = Path(__file__).resolve().parents[2]
_LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def on_two_processes(command: Sequence[object]) -> None:
    """Run a script with its arguments from the repository; show what it said if it failed."""
    environment = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(REPOSITORY)}
    words = [*_LAUNCH, *map(str, command)]
    ended = subprocess.run(words, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{' '.join(words)}\n{ended.stdout[-2000:]}{ended.stderr[-4000:]}")


def train(job: str, arguments: Sequence[object], output_dir: Path, num_stages: int = 2) -> float:
    """Run one of `pipelines` on two stages, or two replicas of one; return the samples/s that its summary says."""
    more = ("--num_stages", num_stages, "--disable_tqdm", "--output_dir", output_dir)
    on_two_processes([f"pipelines/{job}.py", *arguments, *more])
    return json.loads((output_dir / "summary.json").read_text())["samples_per_second"]


def medians(
    systems: Iterable[System], rounds: int, measure: Callable[[System], float], unit: str
) -> dict[System, float]:
    """Measure every system in turn, round after round; print each figure and return the medians."""
    found: dict[System, list[float]] = {system: [] for system in systems}
    for number in range(rounds):
        for system, speeds in found.items():
            speeds.append(measure(system))
            print(f"round {number + 1}: {system!s:<28} {speeds[-1]:8.2f} {unit}", flush=True)
    return {system: median(speeds) for system, speeds in found.items()}
