"""Fine-tuning with several seeds: one run after another, each in a folder of its own, and what they give together."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ds_bert.checkpoint.folders import SEED, claim_output_dir
from ds_bert.command_line import launcher_world
from ds_bert.errors import UserError
from ds_bert.files import write_json
from ds_bert.terminal import table
from ds_bert.training.job_arguments import FinetuneArguments

A = TypeVar("A", bound=FinetuneArguments)

RESULTS = "eval_results.json"


def for_each_seed(arguments: A) -> list[A]:
    """The arguments of one run per seed, each with its own folder; as they are without a list of seeds.

    Raises:
        UserError: a seed stands in the list twice.
    """
    if not arguments.seeds:
        return [arguments]
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise UserError(f"--seeds {' '.join(map(str, arguments.seeds))}: a seed stands there twice")
    runs = [replace(arguments, seed=seed, seeds=[]) for seed in arguments.seeds]
    folder = arguments.report_dir
    return [replace(run, output_dir=str(folder / f"{SEED}{run.seed}")) for run in runs] if folder else runs


def claim_seeds(arguments: FinetuneArguments) -> None:
    """Make sure that ``output_dir`` is that of runs with several seeds, or free.

    Raises:
        UserError: it holds something else, and ``overwrite_output_dir`` does not say to move it aside.
    """
    folder = arguments.run_dir
    if not (arguments.seeds and folder) or (arguments.overwrite_output_dir and launcher_world()[0]):
        return
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in found if name != RESULTS and not name.startswith(SEED)]
    if not others:
        return
    if arguments.resume or not arguments.overwrite_output_dir:
        raise UserError(
            f"{folder}: --output_dir holds {others[0]}, which no run with --seeds wrote; name another folder, or start "
            "anew with --overwrite_output_dir (which moves it aside)"
        )
    claim_output_dir(folder, resume=False, overwrite=True)


def report_seeds(output_dir: Path, seeds: Sequence[int], results: Sequence[Mapping[str, float]]) -> None:
    """Write and print mean and standard deviation over the seeds."""
    summary, rows = {}, []
    for name in results[0]:
        values = [result[name] for result in results]
        deviation = statistics.stdev(values)
        summary[name] = {"mean": statistics.mean(values), "deviation": deviation, "values": values}
        rows.append((name, f"{summary[name]['mean']:.4f} ± {deviation:.4f}"))
    print(table(("measure", f"over seeds {', '.join(map(str, seeds))}"), rows, texts=("measure",)))
    write_json(output_dir / RESULTS, {"seeds": list(seeds), **summary})
