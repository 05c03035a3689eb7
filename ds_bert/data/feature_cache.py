"""A folder of encoded examples, so that a data file is tokenised once.

One folder per key holds::

    features.json       what there is: sizes, options, checksums, notes; written last
    tokens.npy, starts.npy, first_segments.npy, column-<name>.npy, tokens-<name>.npy

It is written beside its place and then renamed, so it is there whole or not at all. Several processes may build the
same one at once: the first to rename wins, and all use the winner's. When a new one is there, old ones that no process
uses go, if all together are too large (see `ds_bert.data.cache_space`): what is missing is built again, and the same.
"""

import errno
import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.command_line import launcher_world
from ds_bert.data import cache_space
from ds_bert.data.features import Features
from ds_bert.data.shards import map_array, save_arrays
from ds_bert.errors import UserError
from ds_bert.files import make_folder, write_json
from ds_bert.terminal import warn

FORMAT_VERSION = 4
_DESCRIPTION = "features.json"
_ARRAYS = ("tokens", "starts", "first_segments")
_ATTEMPTS = 10
_said_too_large: set[Path] = set()


def key_fingerprint(key: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a key's canonical JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def cached_features(
    folder: Path | None,
    key: Mapping[str, Any],
    build: Callable[[], Features],
    overwrite: bool = False,
    origin: str = "",
) -> Features:
    """Return the features that ``build`` makes, from the cache where they are there.

    Args:
        folder: where caches lie, one folder per key; None keeps none.
        key: all that the features follow from, as JSON values.
        build: makes them.
        overwrite: build even where they are there. What is there, where it differs, is moved aside.
        origin: where the data come from, for people who look at what the cache holds.

    Returns:
        The features, memory-mapped where they come from the cache. A damaged cache is moved aside and built anew; where
        the folder cannot be written, that is said and the features are kept in memory.
    """
    return build() if folder is None else _load_or_build(folder, key, build, overwrite, origin)


def _warn(text: str) -> None:
    if launcher_world()[0] == 0:
        warn(text)


def cache_folder(given: str | None) -> Path | None:
    """Return where encoded data is kept: the folder that is given, or one of the user's.

    Where the user has no home, or one that cannot be written, that is said, and None returned: nothing is kept.

    Raises:
        UserError: the given folder cannot be written, or the limit of what is kept there is no size.
    """
    cache_space.limit()
    try:
        folder = Path(given) if given else default_folder()
        make_folder(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows a home
        reason = getattr(error, "strerror", None) or error
        if given:
            raise UserError(f"{given}: --cache_dir cannot be written ({reason}); name another folder") from None
        where = getattr(error, "filename", None) or "home folder"
        _warn(f"{where}: {reason}; encoded data is not kept for the next run, name a folder for it by --cache_dir")
        return None
    return folder


def default_folder() -> Path:
    """Return the user's folder for encoded data, which need not be there.

    Raises:
        RuntimeError: nobody knows a home.
    """
    return Path.home() / ".cache" / "ds_bert" / "features"


def _load_or_build(
    folder: Path, key: Mapping[str, Any], build: Callable[[], Features], overwrite: bool, origin: str
) -> Features:
    place = folder / key_fingerprint({"format": FORMAT_VERSION, **key})[:32]
    features = None if overwrite else _use(place)
    if features is not None:
        return features
    built = build()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _publish(built, key, place, origin)
        _keep_limit(folder)
    except OSError as error:
        _warn(
            f"{folder}: the cache cannot be written there ({error}); `ds-bert cache` says what it holds, and empties "
            "it; name another with --cache_dir"
        )
        return built
    return _load(place) or built


def _use(place: Path) -> Features | None:
    """Open a cache for as long as this process lives; None where there is none, or a damaged one."""
    if not place.is_dir():
        return None
    with suppress(OSError):  # one that cannot be written will not be removed, either
        cache_space.use(place.parent, place.name)
    features = _load(place)
    if features is not None:
        cache_space.touch(place)
    return features


def _keep_limit(folder: Path) -> None:
    """Remove what is too much; say so where that is in use."""
    limit = cache_space.limit()
    with suppress(OSError):  # where files cannot be locked, nobody knows what is in use
        cache_space.shrink(folder, limit)
        left = sum(entry.size for entry in cache_space.entries(folder))
        if left > limit and folder not in _said_too_large:
            _said_too_large.add(folder)
            _warn(
                f"{folder}: the cache holds {cache_space.spell_size(left)} of encoded data that are in use, more than "
                f"the limit of {cache_space.spell_size(limit)} ({cache_space.LIMIT}); `ds-bert cache` lists them"
            )


def _publish(features: Features, key: Mapping[str, Any], place: Path, origin: str) -> None:
    """Put the features in their place, unless another process has put the same there."""
    fresh = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    with suppress(OSError):
        cache_space.use(place.parent, fresh.name, place.name)
    fresh.mkdir()
    try:
        checksums = _write(fresh, features, key, origin)
        for attempt in range(_ATTEMPTS):
            if _renamed(fresh, place) or _holds(place, checksums):
                cache_space.touch(place)
                return
            _renamed(place, place.with_name(f"{fresh.name}.{attempt}.replaced"))
        raise OSError(f"{place} was replaced by others {_ATTEMPTS} times")
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _renamed(source: Path, target: Path) -> bool:
    """Rename; False where the source is gone, or there is something at the target."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def _write(folder: Path, features: Features, key: Mapping[str, Any], origin: str) -> dict[str, str]:
    """Write arrays and description; return each array's checksum."""
    arrays = {name: getattr(features, name) for name in _ARRAYS}
    arrays |= {f"column-{name}": column for name, column in features.columns.items()}
    arrays |= {f"tokens-{name}": column for name, column in features.token_columns.items()}
    save_arrays(folder, arrays)
    checksums = {name: _checksum(array) for name, array in arrays.items()}
    description = {"pad_id": features.pad_id, "per_example": features.per_example, "checksums": checksums}
    about = {"origin": origin, "examples": len(features), "notes": features.notes, "key": dict(key)}
    write_json(folder / _DESCRIPTION, {**description, **about})
    return checksums


def _holds(place: Path, checksums: Mapping[str, str]) -> bool:
    """Say whether the cache is there, sound and of these arrays."""
    try:
        return _load(place) is not None and _description(place)["checksums"] == checksums
    except FileNotFoundError:  # moved aside by another process between the two
        return False


def _description(place: Path) -> dict[str, Any]:
    return json.loads((place / _DESCRIPTION).read_text(encoding="utf-8"))


def describe(place: Path) -> str:
    """Say in a line what a cache holds: where its data come from, how many examples, of how many tokens at most."""
    try:
        found = _description(place)
        key = found["key"]
        origin = found.get("origin") or key.get("kind") or key.get("encoding") or key.get("task") or "unknown data"
        counts = [f"{found['examples']:,} examples"] if "examples" in found else []
        counts += [f"{key['max_seq_length']} tokens"] if "max_seq_length" in key else []
        return ", ".join([str(origin), *counts])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "damaged"


def _load(place: Path) -> Features | None:
    """Open a cache; None where there is none, or a damaged one."""
    try:
        description = _description(place)
        checksums = description["checksums"]
        arrays = {}
        for name, checksum in checksums.items():
            # What is mapped is checked, not what may have taken its name since.
            arrays[name] = map_array(place / f"{name}.npy")
            if _checksum(arrays[name]) != checksum:
                return None
        parts = {name: arrays.pop(name) for name in _ARRAYS}
        pad_id, per_example = int(description["pad_id"]), int(description["per_example"])
        columns, token_columns = _with_prefix("column-", arrays), _with_prefix("tokens-", arrays)
        notes = tuple(map(str, description["notes"]))
        return Features(
            **parts, pad_id=pad_id, columns=columns, per_example=per_example, token_columns=token_columns, notes=notes
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return None


def _checksum(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's type, shape and values, in hexadecimal."""
    values = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{values.dtype.str} {values.shape}".encode())
    digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _with_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
