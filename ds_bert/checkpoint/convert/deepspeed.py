"""DeepSpeed's checkpoints: `layer_<index>-model_states.pt` of a pipeline, `mp_rank_00_model_states.pt` of a model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ds_bert.checkpoint.convert.pieces import assemble
from ds_bert.checkpoint.convert.source import Source
from ds_bert.checkpoint.convert.unpickle import load_pickle, load_tensors, named_tensors
from ds_bert.errors import UserError

_LAYER = re.compile(r"layer_(\d+)(?:-model_(\d+))?-model_states\.pt")
_WHOLE = "mp_rank_00_model_states.pt"


def read_deepspeed(folder: Path, config_path: Path, fields: Mapping[str, Any], tag: str | None) -> Source:
    """Read the weights of a checkpoint; its optimizer state stays behind.

    Args:
        folder: the save_dir, or the folder of one tag in it.
        config_path, fields: the model's configuration, which the files do not have.
        tag: which checkpoint of the save_dir; None for the one that its file `latest` names.

    Raises:
        UserError: there is none, or a file is damaged, holds code, or is one slice of a tensor-parallel model.
    """
    folder = _tagged(folder, tag)
    layers: dict[int, Path] = {}
    for path in folder.glob("layer_*-model_states.pt"):
        if match := _LAYER.fullmatch(path.name):
            if int(match[2] or 0) > 0:
                raise UserError(f"{path}: is one slice of a tensor-parallel model, which cannot be joined here")
            layers[int(match[1])] = path
    whole = folder / _WHOLE
    if layers:
        pieces = [(str(layers[index]), load_tensors(layers[index])) for index in sorted(layers)]
        weights = assemble(pieces, fields)
    elif whole.is_file():
        weights = _whole_model(whole)
    else:
        raise UserError(f"{folder}: has neither layer_<index>-model_states.pt nor {_WHOLE}, which DeepSpeed writes")
    return Source(config_path, dict(fields), weights, notes=[f"{folder.name} of DeepSpeed"])


def _tagged(folder: Path, tag: str | None) -> Path:
    latest = folder / "latest"
    if tag is None and latest.is_file():
        tag = latest.read_text(encoding="utf-8").strip()
    found = folder / tag if tag else folder
    if not found.is_dir():
        raise UserError(f"{found}: no such folder; needed is a checkpoint of DeepSpeed")
    return found


def _whole_model(path: Path) -> dict[str, Any]:
    if (path.parent / "mp_rank_01_model_states.pt").is_file():
        raise UserError(f"{path}: is one slice of a tensor-parallel model, which cannot be joined here")
    data = load_pickle(path)
    module = data.get("module") if isinstance(data, dict) else None
    if module is None:
        raise UserError(f'{path}: has no "module" with weights, and no layer_<index>-model_states.pt lies beside it')
    return named_tensors(module, str(path))
