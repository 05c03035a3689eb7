"""Writing a model as a plain Hugging Face folder."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ds_bert.checkpoint.convert.classes import make_config
from ds_bert.checkpoint.tensors import WEIGHTS, part_name, write_tensors
from ds_bert.files import read_json, write_json
from ds_bert.modeling.families import family_of

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
_CONFIG = "tokenizer_config.json"


def write_model(folder: Path, fields: Mapping[str, Any], head: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Write config.json and model.safetensors, which transformers' class of that head loads.

    Args:
        folder: an empty folder.
        fields: the model's configuration.
        head: one of `ds_bert.modeling.heads.exportable_heads`.
        weights: the class's parameters, the encoder's under names that begin with the family's prefix.
    """
    ours = {"ds_bert", "torch_dtype"}
    types = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    fields = {key: value for key, value in fields.items() if key not in ours}
    if len(types) == 1:
        fields["dtype"] = str(types.pop()).removeprefix("torch.")
    prefix = family_of(fields).prefix if head == "base" else ""
    named = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    write_tensors(folder / part_name(WEIGHTS, 0, 1), named)
    write_json(folder / "config.json", json.loads(make_config(fields, head).to_json_string(use_diff=False)))


def copy_tokenizer(source: Path, folder: Path, positions: int) -> list[str]:
    """Copy a tokenizer's files as they are, but for what they say of the longest sequence; return their names.

    Args:
        source: a folder that may hold a tokenizer, of any class.
        folder: to write to.
        positions: that the model has.
    """
    found = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    for name in found:
        shutil.copyfile(source / name, folder / name)
    if found:
        config = read_json(source / _CONFIG) if _CONFIG in found else {}
        write_json(folder / _CONFIG, {**config, "model_max_length": positions})
    return found
