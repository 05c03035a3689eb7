"""How much disk the feature cache takes: who uses which of its folders, and which go when it grows too large.

Beside the caches lies `.users/`. Every process that uses the cache has a file there, which it holds locked for as long
as it lives and in which it lists the folders that it uses; `.users/lock` is held by whoever lists or removes. So a
folder is free as soon as no living process lists it, however the others ended. What is to go is renamed first, under
the lock, and then deleted: a process that is killed in the midst of it leaves no half of a cache, and the next one
deletes the rest.
"""

import errno
import fcntl
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ds_bert.errors import UserError

LIMIT = "DS_BERT_CACHE_LIMIT"
"""The environment variable with the most bytes that the cache is to take, as `parse_size` reads them."""
_DEFAULT_LIMIT = "10GB"
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(i?)B?", re.IGNORECASE)
_USERS, _LOCK = ".users", "lock"
_PATIENCE = 10.0  # seconds to wait for another process's turn

# A cache's name is its key; what is being written, was moved aside or is to be deleted has a name that begins with it.
_NAME = re.compile(
    r"(?P<whole>[0-9a-f]{32})"
    r"|\.(?P<part>[0-9a-f]{32})\.[0-9a-f]{16}(?P<kind>|\.[0-9]+\.replaced|\.evicted)"
)


def parse_size(text: str, name: str) -> float:
    """Read a number of bytes: "500MB", "1.5 GB", "2GiB", "1000"; "none" means any number.

    Raises:
        UserError: it is none; the message calls it by its ``name``.
    """
    if text.strip().lower() == "none":
        return math.inf
    found = _SIZE.fullmatch(text.strip())
    if not found or (found[3] and not found[2]):
        raise UserError(f"{name} is {text!r}, needed is a size, as 500MB or 10GB, or none for no limit")
    return float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " ")


def spell_size(size: float) -> str:
    """Return bytes as people read them: "12.3 MB"; "no limit" for infinitely many."""
    if size == math.inf:
        return "no limit"
    power = next(power for power in range(5) if size < 999.95 * 1000**power or power == 4)
    return f"{size / 1000**power:.1f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}" if power else f"{size:.0f} bytes"


def limit() -> float:
    """The most bytes that the cache is to take.

    Raises:
        UserError: the environment says something else than a size.
    """
    return parse_size(os.environ.get(LIMIT) or _DEFAULT_LIMIT, LIMIT)


@dataclass(frozen=True)
class Entry:
    """One folder of the cache.

    Args:
        path: of the folder.
        key: name of the cache that it is, or was to be.
        kind: "whole", a cache; "part", one that is being written, or whose writer has died; "aside", one that was moved
            aside, as it was damaged or another took its place; "deleted", what is left of one that was being deleted.
        size: bytes of its files.
        last_used: seconds since 1970.
        in_use: whether a living process uses it.
    """

    path: Path
    key: str
    kind: str
    size: int
    last_used: float
    in_use: bool


def use(folder: Path, *names: str) -> None:
    """Take note that this process uses caches, or is about to write them, until it ends; see that nobody removes them.

    Raises:
        OSError: it cannot be noted there.
    """
    with _turn(folder):
        _user_of(folder).add(names)


def touch(place: Path) -> None:
    """Take note that a cache is used now."""
    with suppress(OSError):
        os.utime(place)


def entries(folder: Path) -> list[Entry]:
    """What the cache holds, the least recently used first; other files in the folder are left out.

    Raises:
        OSError: the cache cannot be locked.
    """
    with _turn(folder):
        return _entries(folder)


def _entries(folder: Path) -> list[Entry]:
    used = _used(folder)
    found = [entry for path in folder.iterdir() if (entry := _entry(path, used))]
    return sorted(found, key=lambda entry: (entry.last_used, entry.path.name))


def shrink(folder: Path, size: float) -> list[Entry]:
    """Remove caches that no living process uses, the least recently used first, until the others fit into ``size``.

    Whatever the size, rests of processes that were killed go; before whole caches go those that were moved aside.

    Returns:
        What was removed.

    Raises:
        OSError: the cache cannot be locked, or not be written.
    """
    with _turn(folder):
        found = _entries(folder)
        gone = [entry for entry in found if entry.kind in ("part", "deleted") and not entry.in_use]
        left = sum(entry.size for entry in found) - sum(entry.size for entry in gone)
        for entry in sorted(found, key=lambda entry: entry.kind != "aside"):
            if left > size and entry.kind in ("aside", "whole") and not entry.in_use:
                gone.append(entry)
                left -= entry.size
        renamed = [(entry, entry.path.with_name(f".{entry.key}.{secrets.token_hex(8)}.evicted")) for entry in gone]
        for entry, target in renamed:
            with suppress(OSError):  # another user's, perhaps
                entry.path.rename(target)
    for _, target in renamed:
        shutil.rmtree(target, ignore_errors=True)
    return [entry for entry, target in renamed if not (target.exists() or entry.path.exists())]


def _entry(path: Path, used: set[str]) -> Entry | None:
    """Describe a folder; None for what is not the cache's, or is gone."""
    found = _NAME.fullmatch(path.name)
    if not found or path.is_symlink():
        return None
    key = found["whole"] or found["part"]
    kind = "whole" if found["whole"] else {"": "part", ".evicted": "deleted"}.get(found["kind"], "aside")
    try:
        files = list(path.iterdir())
        if any(file.suffix not in (".npy", ".json", ".tmp") for file in files):
            return None  # somebody else's
        size, last_used = sum(file.stat().st_size for file in files), path.stat().st_mtime
    except OSError:
        return None
    # A cache that was moved aside may be in use by its former name, a part only by its own.
    in_use = path.name in used or (kind == "aside" and key in used)
    return Entry(path, key, kind, size, last_used, in_use)


class _User:
    """This process's file among a cache's users."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _USERS / f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
        self.names: set[str] = set()
        self._descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def add(self, names: tuple[str, ...]) -> None:
        """List more names."""
        new = [name for name in names if name not in self.names]
        os.write(self._descriptor, "".join(f"{name}\n" for name in new).encode())
        self.names.update(new)


_users: dict[Path, _User] = {}


def _user_of(folder: Path) -> _User:
    """This process's file; the one of a process that it was forked from will do."""
    folder = folder.resolve()
    user = _users.get(folder)
    if user is None or not user.path.exists():  # somebody has emptied the folder
        _used(folder)  # removes the files of those that have died, so that they do not grow in number
        _users[folder] = fresh = _User(folder)
        fresh.add(tuple(user.names) if user else ())
    return _users[folder]


def _used(folder: Path) -> set[str]:
    """The names that living processes list; files of others are removed. To be called in this process's turn."""
    names: set[str] = set()
    own = _users.get(folder.resolve())
    for path in (folder.resolve() / _USERS).glob("*-*"):
        if (own and path == own.path) or _is_held(path):
            names.update(path.read_text().split())
        else:
            with suppress(OSError):
                path.unlink()
    return names


def _is_held(path: Path) -> bool:
    """Whether the process whose file this is lives, or may live."""
    try:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    except OSError:
        return path.exists()
    return False


def _open(path: Path) -> int:
    """Open a file to lock it. Network file systems want it to be open for writing; another user's may not be."""
    try:
        return os.open(path, os.O_RDWR)
    except PermissionError:
        return os.open(path, os.O_RDONLY)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Be the only one to list or remove in a cache's folder.

    Raises:
        OSError: it cannot be locked, or others have kept it locked for long.
    """
    lock = folder / _USERS / _LOCK
    lock.parent.mkdir(exist_ok=True)
    lock.touch(exist_ok=True)
    descriptor = _open(lock)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _locked(descriptor):
            if time.monotonic() > deadline:
                raise OSError(errno.EAGAIN, "locked by another process", str(folder))
            time.sleep(0.02)
        yield
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for a process that was forked meanwhile
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock a file; False where another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
