"""Weights to start from: those of a folder, of the best checkpoint of a run, or of a model of the hub."""

import os
import re
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.manifest import MANIFEST, STATE, check_model, faults, is_of_the_model, read_manifest
from ds_bert.checkpoint.tensors import INDEX, WEIGHTS, TensorFolder, part_name
from ds_bert.errors import UserError
from ds_bert.files import copy_atomically, read_json, write_json
from ds_bert.modeling.families import FAMILIES

_OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


class PretrainedWeights:
    """Tensors of a folder by name; the encoder may lie there bare, and norms may have TensorFlow's names.

    One process of each machine compares a checkpoint's files with its manifest.

    Args:
        folder: of Hugging Face, or one of our checkpoints.
        model_type: the family's, whose prefix a bare encoder's names lack.

    Raises:
        UserError: there are no weights, or they are damaged.
    """

    def __init__(self, folder: Path, model_type: str) -> None:
        self.folder = folder
        if os.environ.get("LOCAL_RANK", "0") == "0":
            check_model(folder)
        self._tensors = TensorFolder(folder)
        self._left_out: tuple[str, ...] = ()
        self._prefix = FAMILIES[model_type].prefix

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return self._stored(name) is not None

    def without(self, *prefixes: str) -> "PretrainedWeights":
        """The same, but for the tensors whose names begin so: they are as if they were not there."""
        other = copy(self)
        other._left_out = self._left_out + prefixes
        return other

    def _stored(self, name: str) -> str | None:
        if name.startswith(self._left_out):
            return None
        candidates = [name, name.removeprefix(self._prefix)]
        for new, old in _OLD_NAMES.items():
            candidates += [found.replace(new, old) for found in candidates[:2]]
        return next((found for found in candidates if found in self._tensors), None)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return self._tensors.shape(self._found(name))

    def read(self, name: str) -> torch.Tensor:
        """One tensor."""
        return self._tensors.read(self._found(name))

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise `UserError` if a tensor is missing or has another shape; see `TensorFolder.check`."""
        self._tensors.check(self._found(name), shape)

    def read_part(self, name: str, begin: int, into: torch.Tensor) -> None:
        """Copy consecutive elements of a tensor; see `TensorFolder.read_part`."""
        self._tensors.read_part(self._found(name), begin, into)

    def _found(self, name: str) -> str:
        stored = self._stored(name)
        if stored is None:
            raise UserError(f"{self.folder}: has no tensor {name}")
        return stored


Say = Callable[[str], None]


def say_nothing(text: str) -> None:
    """Where nobody is to be told."""


def is_run(folder: Path) -> bool:
    """Whether a folder is the ``output_dir`` of a run: other programs, too, name folders `checkpoint-<step>`."""
    return not (folder / MANIFEST).is_file() and (
        folders.latest(folder) is not None or any((found / MANIFEST).is_file() for found in folders.checkpoints(folder))
    )


def model_in(folder: Path, say: Say = say_nothing) -> Path:
    """Return the folder with the model that ``folder`` stands for.

    Of a run, that is the best checkpoint, or else the newest whole one; any other folder stands for itself.

    Args:
        folder: of a run, a checkpoint, or any other model.
        say: told what was chosen of a run, and why.

    Raises:
        UserError: it is a run without a whole checkpoint, or several runs.
    """
    if is_run(folder):
        newest = folders.first_whole(folders.candidates(folder), lambda found: faults(found, tensors=False), say)
        assert newest  # else there would have been a complaint
        return best_known_to(newest, say)
    seeds = [found for found in folders.of_seeds(folder) if is_run(found)]
    if seeds:
        raise UserError(f"{folder}: holds a run for each of several seeds; name one of them, such as {seeds[0]}")
    return folder


def checkpoint_in(folder: Path, say: Say = say_nothing) -> Path:
    """Return the checkpoint that ``folder`` stands for: itself, or what `model_in` chooses of a run.

    Raises:
        UserError: it is neither, or as `model_in` does.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; needed is a checkpoint")
    chosen = model_in(folder, say)
    if not (chosen / MANIFEST).is_file():
        raise UserError(f"{folder}: neither a checkpoint nor a folder with checkpoints in it")
    return chosen


def best_known_to(newest: Path, say: Say = say_nothing) -> Path:
    """Return the best checkpoint of a run as its newest one knows it; that one itself where none has been chosen.

    Only sizes are compared with the manifest; who reads the tensors compares the rest.
    """
    state = read_json(newest / STATE)
    known = (state.get("best") if isinstance(state, dict) else None) or {}
    if known.get("step") is None:
        say(f"starting from {newest}, the newest checkpoint of its run")
        return newest
    best = folders.checkpoint_folder(newest.parent, known["step"])
    if best != newest and (problems := faults(best, tensors=False)):
        say(f"starting from {newest}, the newest checkpoint of its run; the best is not whole: {problems[0]}")
        return newest
    say(f"starting from {best}, the best checkpoint of its run ({known['metric']} {known['value']:.4f})")
    return best


def offer_model(output_dir: Path, checkpoint: Path) -> None:
    """Make a run's folder itself a model that transformers loads, as the folder of a checkpoint is one.

    Configuration and tokenizer are copied; the weights stay where they are, and Hugging Face's index names them there,
    as "checkpoint-6/model.safetensors". It is written last: whoever reads meanwhile, or after a crash, finds the model
    of before or this one.

    Args:
        output_dir: of the run.
        checkpoint: one of its whole checkpoints, which must stay until another one is offered.
    """
    for name in read_manifest(checkpoint):
        if is_of_the_model(name) and not name.endswith((".safetensors", INDEX)):
            copy_atomically(checkpoint / name, output_dir / name)
    index = _index_of(checkpoint)
    index["weight_map"] = {name: f"{checkpoint.name}/{file}" for name, file in index["weight_map"].items()}
    if not (output_dir / INDEX).is_file() or read_json(output_dir / INDEX) != index:
        write_json(output_dir / INDEX, index)


def _index_of(checkpoint: Path) -> dict[str, Any]:
    if (checkpoint / INDEX).is_file():
        return read_json(checkpoint / INDEX)
    file = part_name(WEIGHTS, 0, 1)
    with safe_open(checkpoint / file, framework="np") as tensors:
        names = sorted(tensors.keys())
    return {"metadata": {"total_size": (checkpoint / file).stat().st_size}, "weight_map": dict.fromkeys(names, file)}


_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


def local_folder(name_or_path: str) -> Path:
    """Return the folder that ``name_or_path`` means: a path, or a hub model's, downloaded into the hub's cache.

    Of a run's folder, that is a checkpoint, see `model_in`.

    Raises:
        UserError: no such folder, and no such model on the hub, or the hub cannot be reached.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return model_in(path)
    if path.is_file():
        raise UserError(f"{name_or_path}: is a file; needed is its folder, with config.json and weights")
    if path.exists() or path.is_absolute() or name_or_path.endswith("/") or not _HUB_NAME.fullmatch(name_or_path):
        raise UserError(f"{name_or_path}: no such folder; needed is a folder with config.json and weights")
    from huggingface_hub import snapshot_download

    try:
        downloaded = snapshot_download(name_or_path, allow_patterns=list(_FILES))
    except Exception as error:  # the library and what lies below it raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name_or_path}: no such folder, and not to be had from the hub ({reason})") from None
    return model_in(Path(downloaded))
