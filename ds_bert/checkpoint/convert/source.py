"""A model read from elsewhere, and its parameters under the names that they have in Hugging Face folders today."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ds_bert.modeling.families import FAMILIES

_BUFFER = re.compile(r"(^|\.)embeddings\.(position_ids|token_type_ids)$")
_OLD_NORM = {".gamma": ".weight", ".beta": ".bias"}


@dataclass
class Source:
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
