"""A checkpoint's manifest: every file with its size and checksum, written last, so that any damage is found."""

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ds_bert.errors import UserError
from ds_bert.files import read_json, write_atomically

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
THREADS = 4  # files read or written at once: while some wait for the disk, others are hashed
_BLOCK = 2**20  # bytes read and hashed at once: they stay in the processor's cache
STATE = "trainer_state.json"
ARGUMENTS = "arguments.json"
STAGE_MAP = "stage_map.json"
_OF_THE_RUN = ("optimizer", STATE, ARGUMENTS, STAGE_MAP)  # beginnings of names
_FOREIGN = f"not of this checkpoint: {MANIFEST} does not list it, but it would be read; move it away"
# Files of these names are read whether they are listed or not. What else people and programs leave does no harm.
_READ = re.compile(r"(model|ds_bert|optimizer)(-.*-of-.*)?\.safetensors|model\.safetensors\.index\.json")
_REPAIR = "restore it or remove this checkpoint"


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one file."""

    size: int
    sha256: str


def hash_file(path: Path) -> Entry:
    """Read a file once, for its size and checksum."""
    digest, block, size = hashlib.sha256(), memoryview(bytearray(_BLOCK)), 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            size += count
    return Entry(size, digest.hexdigest())


def write_manifest(folder: Path, step: int, entries: Mapping[str, Entry]) -> None:
    """List the files of a checkpoint.

    Args:
        folder: the checkpoint's.
        step: its optimizer step.
        entries: what was written, by path relative to the folder.
    """
    files = {name: asdict(entries[name]) for name in sorted(entries)}
    body = {"format_version": FORMAT_VERSION, "step": step, "files": files}
    write_atomically(folder / MANIFEST, _text({**body, "sha256": _digest(body)}))


def read_manifest(folder: Path) -> dict[str, Entry]:
    """Return the files that a checkpoint's manifest lists.

    Raises:
        UserError: there is none, it is damaged, or of a later format.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not path.is_file():
        raise UserError(f"{folder}: not a checkpoint: it has no {MANIFEST}")
    manifest = read_json(path)
    body = {key: value for key, value in manifest.items() if key != "sha256"} if isinstance(manifest, dict) else {}
    version = body.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(f"{path}: is of format {version}, this version of ds_bert reads up to {FORMAT_VERSION}")
    # The text is compared, too: a flipped bit may leave the same values behind.
    if not body or manifest.get("sha256") != _digest(body) or path.read_bytes() != _text(manifest).encode():
        raise UserError(f"{path}: does not have the checksum that it names: damaged; {_REPAIR}")
    return {name: Entry(**entry) for name, entry in body["files"].items()}


def faults(folder: Path, tensors: bool = True, share: tuple[int, int] = (0, 1)) -> list[str]:
    """Compare a checkpoint with its manifest.

    Args:
        folder: the checkpoint's.
        tensors: whether to read the tensor files, too; without them only their sizes are compared.
        share: (number, of how many): read only every so manieth file, where several processes do it together.

    Returns:
        A sentence for every file that is missing or damaged, or would be read though it is not the checkpoint's; it
        begins with the file's path.
    """
    try:
        entries = read_manifest(folder)
    except UserError as error:
        return [str(error)]
    present = _present(folder)
    missing = f"missing, but {MANIFEST} lists it; {_REPAIR}"
    found = [f"{folder / name}: {missing}" for name in entries.keys() - present]
    found += [f"{folder / name}: {_FOREIGN}" for name in present - entries.keys() if _READ.fullmatch(name)]
    number, of_how_many = share
    mine = sorted(entries.keys() & present, key=lambda name: (entries[name].size, name))[number::of_how_many]
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(
            lambda name: _fault(folder / name, entries[name], tensors or not name.endswith(".safetensors")), mine
        )
        return sorted(found + [f"{folder / name}: {fault}" for name, fault in zip(mine, read, strict=True) if fault])


def unlisted(folder: Path) -> list[str]:
    """Return the files beside a checkpoint's own: notes and results of people and programs, sorted."""
    return sorted(_present(folder) - read_manifest(folder).keys() - {MANIFEST})


def _present(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def check_files(folder: Path, tensors: bool = True) -> None:
    """Compare a checkpoint with its manifest; see `faults`.

    Raises:
        UserError: the first fault.
    """
    for fault in faults(folder, tensors):
        raise UserError(fault)


def check_model(folder: Path) -> None:
    """Compare what a checkpoint holds of its model with the manifest: what the run alone needs may be gone.

    A folder that is no checkpoint passes.

    Raises:
        UserError: a file differs, or there are weights that the manifest does not list.
    """
    if not ((folder / MANIFEST).is_file() and (folder / STATE).is_file()):
        return
    entries = read_manifest(folder)
    found = {path.name for path in folder.iterdir() if _READ.fullmatch(path.name)}
    found |= {name for name in entries if _is_read(folder / name)}
    names = sorted(filter(is_of_the_model, found))
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(lambda name: _fault(folder / name, entries[name], True) if name in entries else _FOREIGN, names)
        for name, fault in zip(names, read, strict=True):
            if fault:
                raise UserError(f"{folder / name}: {fault}")


def is_of_the_model(name: str) -> bool:
    """Whether a checkpoint's file belongs to its model: to weights, configuration or tokenizer."""
    return not name.startswith(_OF_THE_RUN)


def _is_read(path: Path) -> bool:
    """Whether a listed file matters to who starts from a model: all of its weights, what there is of the rest."""
    return path.suffix == ".safetensors" or path.exists()


def _fault(path: Path, expected: Entry, read: bool) -> str | None:
    """What is wrong with a listed file, if anything is."""
    try:
        size = path.stat().st_size
        if size != expected.size:
            return f"has {size} bytes, {MANIFEST} says {expected.size}: truncated or changed; {_REPAIR}"
        if read and hash_file(path) != expected:
            return f"does not have the checksum in {MANIFEST}: damaged, or of another checkpoint; {_REPAIR}"
    except OSError as error:
        return f"cannot be read: {error.strerror}; {_REPAIR}"
    return None


def _text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(body).encode()).hexdigest()
