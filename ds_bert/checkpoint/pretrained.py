"""Weights to start from: a folder's tensors under the names that Hugging Face's task models have today."""

import os
from copy import copy
from pathlib import Path

import torch

from ds_bert.checkpoint.manifest import check_model
from ds_bert.checkpoint.tensors import TensorFolder
from ds_bert.errors import UserError
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
