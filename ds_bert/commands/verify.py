"""`ds-bert verify`: compare every file of a checkpoint with its checksum."""

import argparse
import sys
from pathlib import Path

from ds_bert.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "path", type=Path, nargs="+", help="a checkpoint-<step> folder, or a run's output_dir (all of its checkpoints)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Say which checkpoints are whole, and which files of the others are not; return 2 if there is any such file."""
    from ds_bert.checkpoint.manifest import faults, read_manifest

    status = 0
    for checkpoint in [checkpoint for path in arguments.path for checkpoint in _checkpoints(path)]:
        found = faults(checkpoint)
        if found:
            status = 2
            print("\n".join(f"error: {fault}" for fault in found), file=sys.stderr)
        else:
            entries = read_manifest(checkpoint).values()
            print(f"{checkpoint}: {len(entries)} files are whole, {sum(entry.size for entry in entries):,} bytes")
    return status


def _checkpoints(path: Path) -> list[Path]:
    from ds_bert.checkpoint import folders

    if not path.is_dir():
        raise UserError(f"{path}: no such folder; needed is a checkpoint, or a run's output_dir")
    if (path / folders.MANIFEST).is_file():
        return [path]
    found = folders.candidates(path)
    if not found:
        raise UserError(f"{path}: neither a checkpoint nor a folder with checkpoints in it")
    return found[::-1]
