"""The jobs, to be called from Python: one after another in one process, as in a notebook.

    from ds_bert import jobs

    jobs.run("pretrain", config_name="bert-base-uncased", train_path="data/wiki", output_dir="runs/wiki")

A launcher starts the same jobs as `pipelines/pretrain.py`, or as the module `ds_bert.jobs.pretrain`.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any, TypeVar

from ds_bert import __version__
from ds_bert.command_line import Told, launcher_world, quiet_libraries, wrong_choice
from ds_bert.errors import UserError, did_you_mean
from ds_bert.training.unknown import JOBS as SCRIPTS

T = TypeVar("T")

# One module of this package for each, with a function ``main(told) -> int``; only the one asked for is imported.
JOBS = tuple(Path(script).stem for script in SCRIPTS)


def run(job: str, json_file: str | Path | None = None, /, **arguments: Any) -> int:
    """Run a job on this process alone; what it needs of the process is given back at the end, however it ends.

    Ctrl-C (a notebook's "interrupt") ends it with a checkpoint after the step under way, where it runs in the main
    thread; pressed again, at once. The same run gives the same numbers, to the bit, as in a new process.

    Args:
        job: one of `JOBS`.
        json_file: with any of the arguments.
        arguments: by the names of the job's flags; they override the file's.

    Returns:
        0, or 128 + the number of the signal that ended it early.

    Raises:
        UserError: a mistake in what was handed in, found before training.
        StartError, JobFailure: as the job raises them.
    """
    if job not in JOBS:
        raise UserError(f"there is no job {job!r}, {wrong_choice(JOBS, did_you_mean(job, JOBS))}")
    return importlib.import_module(f"ds_bert.jobs.{job}").main({"json_file": json_file, **arguments})


def begin(kind: type[T], told: Told | None = None) -> tuple[T, set[str]]:
    """Say that a job starts, read its arguments, and let the other processes know that this one is there.

    Args:
        kind: the job's arguments, a dataclass.
        told: what it is told; default: the process's arguments.

    Returns:
        See `ds_bert.training.parser.parse_arguments`.

    Raises:
        UserError: as that does.
    """
    rank, world_size = launcher_world()
    words = sys.argv if told is None else [""]
    if rank == 0 and not {"-h", "--help"} & set(words):
        ranks = f" on {world_size} ranks" if world_size > 1 else ""
        name = f" {Path(words[0]).name}{ranks};" if words[0] else ""
        print(f"ds_bert {__version__}:{name} reading model and data ...", flush=True)
    quiet_libraries()
    from ds_bert.training.parser import parse_arguments

    arguments, given = parse_arguments(kind, told)
    if world_size > 1 and {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():  # else the user is told so
        from ds_bert.engine.meeting import come

        come(rank, world_size, arguments.start_timeout)  # type: ignore[attr-defined]  # all jobs have it
    return arguments, given
