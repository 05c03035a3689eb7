"""`ds-bert cache`: show what encoded data earlier jobs have left, and how much disk it takes; or remove it."""

import argparse
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ds_bert.data import cache_space
from ds_bert.data.cache_space import Entry, spell_size
from ds_bert.data.feature_cache import default_folder, describe
from ds_bert.errors import UserError
from ds_bert.terminal import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--cache_dir", type=Path, help="folder of the cache (default: the user's, as in all jobs)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--limit",
        metavar="SIZE",
        help="remove what was not used for longest until the rest takes no more than this, as 500MB or 10GB",
    )
    how.add_argument("--clear", action="store_true", help="remove all of it; in either case but what is in use")


def run(arguments: argparse.Namespace) -> None:
    """Remove what is to be removed, and list what there is."""
    size = math.inf if arguments.limit is None else cache_space.parse_size(arguments.limit, "--limit")
    size = 0 if arguments.clear else size
    limit, folder = cache_space.limit(), _folder(arguments.cache_dir)
    if size < math.inf:
        removed = cache_space.shrink(folder, size) if folder.is_dir() else []
        print(f"removed {_count(removed)}")
    entries = cache_space.entries(folder) if folder.is_dir() else []
    print(f"{folder}: {_count(entries)}")
    if entries:
        print(_table(entries))
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    print(
        f"limit: {spell_size(limit)} ({cache_space.LIMIT}), kept by each job that adds to it; the disk has "
        f"{spell_size(free)} free"
    )


def _folder(given: Path | None) -> Path:
    if given is not None and not given.is_dir():
        raise UserError(f"{given}: no such folder; needed is what a job was given as --cache_dir")
    try:
        return given or default_folder()
    except RuntimeError as error:
        raise UserError(f"home folder: {error}; name the cache's folder by --cache_dir") from None


def _count(entries: Sequence[Entry]) -> str:
    folders = "1 folder" if len(entries) == 1 else f"{len(entries)} folders"
    return f"{folders}, {spell_size(sum(entry.size for entry in entries))}"


def _table(entries: Sequence[Entry]) -> str:
    """A line for each, the last used first."""
    states = {"whole": "", "part": "unfinished", "aside": "moved aside", "deleted": "half removed"}
    rows = []
    for entry in reversed(entries):
        state = [word for word in (states[entry.kind], "in use" if entry.in_use else "") if word]
        what = describe(entry.path) + (f" ({', '.join(state)})" if state else "")
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        rows.append((spell_size(entry.size), used, what))
    return table(("size", "last used", "what"), rows, texts=("last used", "what"))
