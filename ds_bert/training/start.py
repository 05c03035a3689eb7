"""How a job starts: with a line at once, before the imports that take seconds."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ds_bert import __version__
from ds_bert.launcher import launcher_world

T = TypeVar("T")
Told = Sequence[str] | Mapping[str, Any]
"""What a job is told: the words of a command line, or arguments by their names, with "json_file" among them."""


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
    from ds_bert.training.parser import parse_arguments

    arguments, given = parse_arguments(kind, told)
    if world_size > 1 and {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():  # else the user is told so
        from ds_bert.engine.meeting import come

        come(rank, world_size, arguments.start_timeout)  # type: ignore[attr-defined]  # all jobs have it
    return arguments, given
