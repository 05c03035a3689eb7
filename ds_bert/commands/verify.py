"""`ds-bert verify`: compare every file of a checkpoint, or of prepared data, with its checksum."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ds_bert.errors import UserError
from ds_bert.terminal import complain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "path",
        type=Path,
        nargs="+",
        help="a checkpoint-<step> folder, a run's output_dir (all of its checkpoints), or what `ds-bert prepare` or "
        "`ds-bert tasks` made",
    )


def run(arguments: argparse.Namespace) -> int:
    """Say which folders are whole, and which files of the others are not; return 2 if there is any such file."""
    status = 0
    for compare, folder in [part for path in arguments.path for part in _parts(path)]:
        found, content = compare(folder)
        if found:
            status = 2
            for fault in found:
                complain(fault)
        else:
            print(f"{folder}: {content}")
    return status


Compare = Callable[[Path], tuple[list[str], str]]
"""Reads a folder; returns what is wrong with it and, if that is nothing, what it holds."""


def _parts(path: Path) -> Iterator[tuple[Compare, Path]]:
    """The folders that a path stands for, each with what compares it."""
    from ds_bert.checkpoint import folders
    from ds_bert.data import shards
    from ds_bert.data.prepare_state import VALIDATION
    from ds_bert.meta.tasks import task_set

    if not path.is_dir():
        raise UserError(f"{path}: no such folder; needed is a checkpoint, a run's output_dir, or prepared data")
    prepared = [
        kind for kind in ((shards.MANIFEST, _corpus), (task_set.MANIFEST, _tasks)) if (path / kind[0]).is_file()
    ]
    if (path / folders.MANIFEST).is_file():
        yield _checkpoint, path
    elif prepared:
        compare = prepared[0][1]
        yield from ((compare, folder) for folder in (path, path / VALIDATION) if folder.is_dir())
    else:
        found = folders.candidates(path)
        if not found:
            raise UserError(f"{path}: no checkpoint, no folder with checkpoints in it, and no prepared data")
        yield from ((_checkpoint, checkpoint) for checkpoint in found[::-1])


def _checkpoint(folder: Path) -> tuple[list[str], str]:
    from ds_bert.checkpoint.manifest import faults, read_manifest, unlisted

    found = faults(folder)
    if found:
        return found, ""
    entries = read_manifest(folder).values()
    others = unlisted(folder)
    beside = f"; not of it: {', '.join(others)}" if others else ""
    return [], f"{len(entries)} files are whole, {sum(entry.size for entry in entries):,} bytes{beside}"


def _corpus(folder: Path) -> tuple[list[str], str]:
    from ds_bert.data.shards import ShardedCorpus

    return _data(
        lambda: ShardedCorpus.open(folder),
        lambda corpus: f"{len(corpus.shards)} shards are whole, {corpus.num_tokens:,} tokens",
    )


def _tasks(folder: Path) -> tuple[list[str], str]:
    from ds_bert.meta.tasks.task_set import TaskSet

    return _data(
        lambda: TaskSet.open(folder), lambda tasks: f"{len(tasks):,} tasks are whole, {tasks.num_examples:,} examples"
    )


def _data(open_it: Callable[[], Any], describe: Callable[[Any], str]) -> tuple[list[str], str]:
    try:
        data = open_it()
        data.verify()
    except UserError as error:
        return [str(error)], ""
    return [], describe(data)
