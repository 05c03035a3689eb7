"""Hugging Face folders of any age."""

from pathlib import Path

import torch

from ds_bert.checkpoint.convert.source import Source
from ds_bert.checkpoint.convert.unpickle import load_tensors
from ds_bert.checkpoint.manifest import check_model
from ds_bert.checkpoint.tensors import WEIGHTS, TensorFolder, has_tensors
from ds_bert.errors import UserError
from ds_bert.files import read_json

_PICKLE = "pytorch_model.bin"


def read_hugging_face(folder: Path) -> Source:
    """Read a folder's configuration and weights: safetensors, or pytorch_model*.bin without running what is in them.

    Raises:
        UserError: a file is missing or damaged, or holds code.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise UserError(f"{folder}: has no config.json; needed is a Hugging Face folder")
    fields = read_json(config_path)
    if not isinstance(fields, dict):
        raise UserError(f"{config_path}: holds a {type(fields).__name__}, a model configuration is a JSON object")
    check_model(folder)
    if has_tensors(folder, WEIGHTS):
        tensors = TensorFolder(folder)
        weights = tensors.read_all(tensors.names())
    else:
        weights = _read_pickles(folder)
    return Source(config_path, fields, weights, folder)


def _read_pickles(folder: Path) -> dict[str, torch.Tensor]:
    files = [folder / _PICKLE] if (folder / _PICKLE).is_file() else sorted(folder.glob("pytorch_model-*-of-*.bin"))
    if not files:
        raise UserError(f"{folder}: has neither model.safetensors nor {_PICKLE}")
    of_how_many = int(files[-1].stem.rpartition("-")[2]) if len(files) > 1 or files[0].name != _PICKLE else 1
    if len(files) != of_how_many:
        raise UserError(f"{folder}: has {len(files)} of the {of_how_many} files that its weights were split into")
    return {name: tensor for file in files for name, tensor in load_tensors(file).items()}
