"""A model read from elsewhere, Hugging Face folders of any age among them, with its parameters under today's names."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ds_bert.checkpoint.manifest import check_model
from ds_bert.checkpoint.tensors import WEIGHTS, TensorFolder, has_tensors
from ds_bert.errors import UserError
from ds_bert.files import read_json, reading
from ds_bert.modeling.families import FAMILIES

_BUFFER = re.compile(r"(^|\.)embeddings\.(position_ids|token_type_ids)$")
_OLD_NORM = {".gamma": ".weight", ".beta": ".bias"}


@dataclass
class ForeignModel:
    """What was found.

    Args:
        config_path: the file (or the name of the shipped one) that describes the model.
        fields: its content.
        weights: parameters by Hugging Face's names.
        tokenizer: a tokenizer's folder, or the file of a vocabulary; None where there is none.
        notes: what its owner should know: what was left out, and why.
    """

    config_path: Path
    fields: dict[str, Any]
    weights: dict[str, torch.Tensor]
    tokenizer: Path | None = None
    notes: list[str] = field(default_factory=list)


def standard_names(weights: Mapping[str, torch.Tensor], model_type: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Rename what transformers has ever written for a model of this family.

    Norms' gamma and beta, a bare encoder, the prefix of a wrapped model; buffers and second copies of tied parameters
    are left out.

    Returns:
        The parameters, and notes.
    """
    named = {_standard_name(name, model_type): tensor for name, tensor in weights.items() if not _BUFFER.search(name)}
    notes = []
    family = FAMILIES[model_type]
    head, words = family.predictions_name, named.get(family.word_embeddings)
    copy = named.pop(f"{head}decoder.weight", None)
    if copy is not None and words is not None and not torch.equal(copy, words):
        notes.append(
            f"the decoder's matrix differs from the word embeddings ({_difference(copy, words)}) and is left out: here "
            "they are one"
        )
    bias = named.pop(f"{head}decoder.bias", None)
    if bias is not None:
        named.setdefault(f"{head}bias", bias)
    return named, notes


def _standard_name(name: str, model_type: str) -> str:
    name = name.removeprefix("module.")
    for old, new in _OLD_NORM.items():
        if name.endswith(f"orm{old}"):
            name = name.removesuffix(old) + new
    family = FAMILIES[model_type]
    return family.prefix + name if name.startswith(family.bare_names) else name


def _difference(one: torch.Tensor, other: torch.Tensor) -> str:
    if one.shape != other.shape:
        return f"{tuple(one.shape)} against {tuple(other.shape)}"
    return f"by up to {(one.float() - other.float()).abs().max().item():.3g}"


def load_pickle(path: Path) -> Any:
    """Read such a file onto the CPU.

    Raises:
        UserError: it is missing or damaged, or holds anything but tensors, numbers, text, lists and dictionaries.
    """
    with reading(path):
        pass  # what cannot be opened is not damaged
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise UserError(
                f"{path}: asks for {code[1]}, which is code and is not run; needed is a file with tensors, numbers, "
                "text, lists and dictionaries only"
            ) from None
        raise UserError(f"{path}: not a file of torch.save") from None
    except Exception as error:  # a damaged pickle makes its reader stumble in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a file of torch.save, or damaged: {reason}") from None


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a file that holds named tensors, as `load_pickle` does."""
    return named_tensors(load_pickle(path), str(path))


def named_tensors(data: Any, origin: str) -> dict[str, torch.Tensor]:
    """Return ``data`` if it is a dictionary of named tensors. Raises `UserError` if not."""
    if not isinstance(data, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in data.items()
    ):
        raise UserError(f"{origin}: holds no dictionary of named tensors, which is what a model's weights are")
    return {name: tensor.detach() for name, tensor in data.items()}


_PICKLE = "pytorch_model.bin"


def read_hugging_face(folder: Path) -> ForeignModel:
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
    return ForeignModel(config_path, fields, weights, folder)


def _read_pickles(folder: Path) -> dict[str, torch.Tensor]:
    files = [folder / _PICKLE] if (folder / _PICKLE).is_file() else sorted(folder.glob("pytorch_model-*-of-*.bin"))
    if not files:
        raise UserError(f"{folder}: has neither model.safetensors nor {_PICKLE}")
    of_how_many = int(files[-1].stem.rpartition("-")[2]) if len(files) > 1 or files[0].name != _PICKLE else 1
    if len(files) != of_how_many:
        raise UserError(f"{folder}: has {len(files)} of the {of_how_many} files that its weights were split into")
    return {name: tensor for file in files for name, tensor in load_tensors(file).items()}
