"""Checkpoint folders: `checkpoint-<step>` exists whole or not at all.

A checkpoint is written to a hidden folder; once all its files and then its manifest are on the disk it is renamed, and
then `latest` names it. A crash at any moment leaves the checkpoints before it as they were.
"""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ds_bert.checkpoint.manifest import MANIFEST, Entry, check_files, faults, hash_file, write_manifest
from ds_bert.errors import UserError
from ds_bert.files import make_folder, write_atomically

__all__ = ["MANIFEST", "check_files"]  # known by these names here, too

LATEST = "latest"
SEED = "seed-"  # a seed's folder is named so, and its number
_NAME = re.compile(r"checkpoint-(\d+)")
_HIDDEN = ".checkpoint-{}.partial"


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of an optimizer step lies."""
    return output_dir / f"checkpoint-{step}"


def partial_folder(output_dir: Path, step: int) -> Path:
    """Where it is written before it is whole."""
    return output_dir / _HIDDEN.format(step)


def clean(output_dir: Path) -> None:
    """Remove what interrupted attempts left."""
    for leftover in output_dir.glob(_HIDDEN.format("*")):
        _remove_hidden(leftover)
    for leftover in output_dir.glob(".*.*.tmp"):
        leftover.unlink(missing_ok=True)


def begin(output_dir: Path, step: int) -> Path:
    """Make the empty folder to write into; what interrupted attempts left is removed."""
    clean(output_dir)
    partial = partial_folder(output_dir, step)
    partial.mkdir(parents=True)
    return partial


def commit(output_dir: Path, step: int, entries: Mapping[str, Entry] | None = None) -> Path:
    """Turn the written folder into a checkpoint: list its files, see them on the disk, rename it, point to it.

    A checkpoint of this step that is there already is moved aside, never deleted.

    Args:
        output_dir, step: whose.
        entries: files whose writers have hashed them and seen them on the disk; this is done here for all others.

    Raises:
        OSError: the disk is full, or a written file is not there.
    """
    partial, whole = partial_folder(output_dir, step), checkpoint_folder(output_dir, step)
    known = dict(entries or {})
    files = sorted(file for file in partial.rglob("*") if file.is_file())
    for file in files:
        name = str(file.relative_to(partial))
        if name not in known:
            sync(file)
            known[name] = hash_file(file)
    absent = known.keys() - {str(file.relative_to(partial)) for file in files}
    if absent:
        raise FileNotFoundError(f"{partial}: not all processes write to the same folder: {min(absent)} is not there")
    write_manifest(partial, step, known)
    for folder in {partial, *(file.parent for file in files)}:
        sync(folder)
    if whole.exists() or whole.is_symlink():
        os.rename(whole, _free_name(whole))
    os.rename(partial, whole)
    sync(output_dir)
    write_atomically(output_dir / LATEST, whole.name + "\n")
    sync(output_dir)
    return whole


def sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_name(path: Path) -> Path:
    """Where something can be moved aside to."""
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return aside


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints in a folder, whole or not, oldest first."""
    return sorted((path for path in output_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name)), key=step_of)


def is_checkpoint_name(name: str) -> bool:
    """Whether a folder's name is that of a checkpoint."""
    return _NAME.fullmatch(name) is not None


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint's folder names."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def latest(output_dir: Path) -> Path | None:
    """The checkpoint written last, as `latest` names it, whether it is still there or not."""
    try:
        name = (output_dir / LATEST).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return output_dir / name if _NAME.fullmatch(name) else None


def candidates(output_dir: Path) -> list[Path]:
    """The checkpoints that a run could go on from, newest first; one that `latest` names, even if it is gone."""
    found = {*checkpoints(output_dir), *filter(None, [latest(output_dir)])}
    return sorted(found, key=step_of, reverse=True)


def first_whole(
    found: list[Path], check: Callable[[Path], list[str]], say: Callable[[str], None] | None = None
) -> Path | None:
    """Return the first of ``found`` that is whole; None where there are none at all.

    Args:
        found: `candidates`.
        check: `faults`, or what does it together with other processes.
        say: told of each that is skipped, and why.

    Raises:
        UserError: none of them is whole.
    """
    reasons = []
    for checkpoint in found:
        problems = check(checkpoint)
        if not problems:
            return checkpoint
        reasons += problems[:1]
        if say:
            say(f"{checkpoint.name} is skipped: {problems[0]}")
    if reasons:
        others = f"; nor is any of the {len(found) - 1} before it" if len(found) > 1 else ""
        raise UserError(f"no whole checkpoint to go on from: {reasons[0]}{others}")
    return None


def of_seeds(output_dir: Path) -> list[Path]:
    """The folders of a job with several seeds, one for each."""
    return sorted(path for path in output_dir.glob(f"{SEED}*") if path.is_dir())


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint in a folder that seems whole, its tensors not read; None where there are none at all.

    Raises:
        UserError: there are some, and none is whole.
    """
    return first_whole(candidates(output_dir), lambda checkpoint: faults(checkpoint, tensors=False))


def say_on_stderr(text: str) -> None:
    """Print a line that is not part of a program's result."""
    print(text, file=sys.stderr, flush=True)


def remove_oldest(output_dir: Path, keep: int, best: int | None = None) -> None:
    """Remove all but the ``keep`` newest checkpoints and that of step ``best``; 0 keeps all.

    Newest is the one written last. Those of later steps are damaged, or of a course that was given up: they stay.
    """
    last = latest(output_dir)
    found = [folder for folder in checkpoints(output_dir) if last is None or step_of(folder) <= step_of(last)]
    for folder in found[:-keep] if keep else []:
        if best is None or folder != checkpoint_folder(output_dir, best):
            _remove(folder)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that, if interrupted, no part of it passes for one.

    What cannot be removed is tried again with the next checkpoint: this one is written.
    """
    hidden = checkpoint.with_name(f".{checkpoint.name}.old.partial")
    with contextlib.suppress(OSError):
        os.rename(checkpoint, hidden)
        _remove_hidden(hidden)


def _remove_hidden(folder: Path) -> None:
    folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)


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
        try:
            output_dir.rename(_free_name(output_dir))
        except OSError as error:
            raise UserError(f"{output_dir}: --output_dir cannot be moved aside: {error.strerror}") from None
    elif not resume:
        refuse_occupied(output_dir)
    _make(output_dir)


def refuse_occupied(output_dir: Path) -> None:
    """Raise `UserError` if the folder of a job that neither resumes nor overwrites holds something."""
    if _is_occupied(output_dir):
        raise UserError(
            f"{output_dir}: --output_dir is not empty; go on from its newest checkpoint with --resume, or start anew "
            "with --overwrite_output_dir (which moves it aside)"
        )


def claim_empty(output_dir: Path) -> None:
    """Make ``output_dir`` a new or empty folder. Raises `UserError` if it holds something."""
    if _is_occupied(output_dir):
        raise UserError(f"{output_dir}: --output_dir is not empty; name a new folder")
    _make(output_dir)


def _is_occupied(output_dir: Path) -> bool:
    try:
        if output_dir.is_file():
            raise UserError(f"{output_dir}: is a file, needed is a folder for --output_dir")
        return output_dir.is_dir() and any(output_dir.iterdir())
    except OSError as error:
        raise UserError(f"{output_dir}: --output_dir cannot be read: {error.strerror}") from None


def _make(output_dir: Path) -> None:
    """Make the folder, and see that it can be written: training for days must not end with its first checkpoint."""
    was_there = output_dir.is_dir()
    try:
        make_folder(output_dir)
    except OSError as error:
        what = "--output_dir cannot be written" if was_there else "cannot be made"
        raise UserError(f"{output_dir}: {what}: {error.strerror}") from None
