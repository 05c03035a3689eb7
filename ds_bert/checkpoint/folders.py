"""Checkpoint folders: `checkpoint-<step>` exists whole or not at all."""

import os
import re
import shutil
from pathlib import Path

from ds_bert.errors import UserError
from ds_bert.files import read_json, write_json

MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_HIDDEN = ".checkpoint-{}.partial"


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of an optimizer step lies."""
    return output_dir / f"checkpoint-{step}"


def partial_folder(output_dir: Path, step: int) -> Path:
    """Where it is written before it is whole."""
    return output_dir / _HIDDEN.format(step)


def begin(output_dir: Path, step: int) -> Path:
    """Make the empty folder to write into; what interrupted attempts left is removed."""
    for leftover in output_dir.glob(_HIDDEN.format("*")):
        shutil.rmtree(leftover, ignore_errors=True)
    partial = partial_folder(output_dir, step)
    partial.mkdir(parents=True)
    return partial


def commit(output_dir: Path, step: int) -> Path:
    """Turn the written folder into a checkpoint: list its files, see them on the disk, rename it."""
    partial, whole = partial_folder(output_dir, step), checkpoint_folder(output_dir, step)
    files = sorted(file for file in partial.rglob("*") if file.is_file())
    for file in files:
        sync(file)
    sizes = {str(file.relative_to(partial)): file.stat().st_size for file in files}
    write_json(partial / MANIFEST, {"step": step, "files": sizes})
    for folder in {partial, *(file.parent for file in files)}:
        sync(folder)
    if whole.exists():
        _remove(whole)
    os.rename(partial, whole)
    sync(output_dir)
    return whole


def sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    found = [(int(match[1]), path) for path in output_dir.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint in a folder, or None.

    Raises:
        UserError: the newest one has lost a file or a part of one.
    """
    found = checkpoints(output_dir)
    if not found:
        return None
    check_files(found[-1])
    return found[-1]


def check_files(folder: Path) -> None:
    """Compare a checkpoint's files with its manifest.

    Raises:
        UserError: it is no checkpoint, or a file is missing or of another size.
    """
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: not a checkpoint: it has no {MANIFEST}")
    manifest = read_json(folder / MANIFEST)
    sizes = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(sizes, dict):
        raise UserError(f"{folder / MANIFEST}: lists no files: damaged; restore it or remove this checkpoint")
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing, but {MANIFEST} lists it; restore it or remove this checkpoint")
        if path.stat().st_size != size:
            raise UserError(f"{path}: has {path.stat().st_size} bytes, {MANIFEST} says {size}: truncated or changed")


def remove_oldest(output_dir: Path, keep: int, best: int | None = None) -> None:
    """Remove all but the ``keep`` newest checkpoints and that of step ``best``; 0 keeps all."""
    for folder in checkpoints(output_dir)[:-keep] if keep else []:
        if best is None or folder != checkpoint_folder(output_dir, best):
            _remove(folder)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that, if interrupted, no part of it passes for one."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.old.partial")
    os.rename(checkpoint, hidden)
    shutil.rmtree(hidden)


def claim_output_dir(output_dir: Path, resume: bool, overwrite: bool) -> None:
    """Make sure that a job may write into ``output_dir``; what it replaces is moved aside, never deleted.

    Raises:
        UserError: the folder holds something, and neither ``resume`` nor ``overwrite`` says what to do about it.
    """
    occupied = _is_occupied(output_dir)
    if occupied and overwrite and not resume:
        output_dir = output_dir.resolve()
        if Path.cwd().is_relative_to(output_dir):
            raise UserError(f"{output_dir}: --output_dir holds the current folder and cannot be moved aside")
        number = 1
        while (aside := output_dir.with_name(f"{output_dir.name}.old-{number}")).exists():
            number += 1
        output_dir.rename(aside)
    elif occupied and not resume:
        raise UserError(
            f"{output_dir}: --output_dir is not empty; go on from its newest checkpoint with --resume, or start anew "
            "with --overwrite_output_dir (which moves it aside)"
        )
    _make(output_dir)


def claim_empty(output_dir: Path) -> None:
    """Make ``output_dir`` a new or empty folder. Raises `UserError` if it holds something."""
    if _is_occupied(output_dir):
        raise UserError(f"{output_dir}: --output_dir is not empty; name a new folder")
    _make(output_dir)


def _is_occupied(output_dir: Path) -> bool:
    if output_dir.is_file():
        raise UserError(f"{output_dir}: is a file, needed is a folder for --output_dir")
    return output_dir.is_dir() and any(output_dir.iterdir())


def _make(output_dir: Path) -> None:
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output_dir}: cannot be made: {error.strerror}") from None
