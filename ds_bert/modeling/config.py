"""A model's configuration: a ``config.json`` of Hugging Face's, read and checked without transformers."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_bert.errors import UserError, did_you_mean
from ds_bert.files import find_config, read_json
from ds_bert.modeling.families import FAMILIES, Family

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
# fmt: off
ACTIVATIONS = (
    "gelu", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "mish", "quick_gelu",
    "relu", "relu2", "silu", "swish", "tanh",
)
# fmt: on

_PROBABILITIES = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_POSITIVE = ("initializer_range", "layer_norm_eps")
# What heads add to a configuration; each may be missing.
_HEAD_SIZES = ("num_labels", "num_choices", "start_n_top", "end_n_top")
# Keys that change the model; each has one value that is supported, which is also its default.
_FIXED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def load_model_config(name_or_path: str | Path, overrides: str | None = None) -> dict[str, Any]:
    """Read the configuration of a model and fill in its family's defaults.

    Args:
        name_or_path: a folder that holds ``config.json``, a JSON file, or the name of a file in ``ds_configs/models``.
        overrides: ``--config_overrides``: keys with other values than the file's, "vocab_size=8192,hidden_act=relu".

    Returns:
        The file's keys, unknown ones included, over the defaults of its "model_type" ("bert" where that is missing).

    Raises:
        UserError: nothing is found under that name (the shipped names are listed), or the file is not the
            configuration of such a model; the message names every key that is wrong. Or an override is no
            KEY=VALUE, or of a key that the model does not have, or of another kind than the value in its place.
    """
    folder = Path(name_or_path)
    path = folder / "config.json" if folder.is_dir() else find_config("models", name_or_path)
    config = check_model_config(read_json(path), path)
    return check_model_config(_overridden(config, overrides, path), path) if overrides else config


def _overridden(config: dict[str, Any], overrides: str, path: Path) -> dict[str, Any]:
    changed = dict(config)
    for change in overrides.split(","):
        key, is_one, text = (part.strip() for part in change.partition("="))
        where = f"--config_overrides {change.strip() or overrides}"
        if not is_one or not text:
            raise UserError(f"{where}: needed is KEY=VALUE, several of them with commas between them")
        if key == "model_type" or key not in config:
            hint = did_you_mean(key, config)
            raise UserError(f"{where}: {path} has no key {key} to change{'; ' + hint if hint else ''}")
        value, known = _read_value(text), FAMILIES[config["model_type"]].defaults.get(key, config[key])
        has_kind = type(value) is type(known) or (_is_real(value) and isinstance(known, float))
        if known is not None and not has_kind:
            raise UserError(f"{where}: needed is {_KINDS.get(type(known), 'a value')}, as {path} has")
        changed[key] = value
    return changed


def _read_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # as people write it, without quotes


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def check_model_config(data: Any, path: Path) -> dict[str, Any]:
    """Check what ``path`` holds, and fill in the family's defaults; see `load_model_config`."""
    if not isinstance(data, dict):
        raise UserError(f"{path}: found {_show(data)} at the top level, a model configuration is a JSON object")
    model_type = data.get("model_type", "bert")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(f'{path}: "model_type" is {_show(model_type)}, expected one of {", ".join(FAMILIES)}')
    family = FAMILIES[model_type]
    config = {"model_type": model_type, **family.defaults, **data}
    faults = _size_faults(config, family.sizes)
    if not faults and not _size_faults(config, SIZES):
        faults = family.faults(config)
    faults = [*_faults(config, family), *_head_faults(config), *faults]
    if faults:
        raise UserError(f"{path}: {'; '.join(faults)}")
    return config


def _faults(config: dict[str, Any], family: Family) -> list[str]:
    """Return one phrase for each key of ``config`` that describes no encoder."""
    faults = _size_faults(config, SIZES)
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if _is_whole(hidden, 1) and _is_whole(heads, 1) and hidden % heads:
        faults.append(f'"hidden_size" {hidden} is not divisible by "num_attention_heads" {heads}')
    vocabulary, padding = config["vocab_size"], config["pad_token_id"]
    if not _is_whole(padding, 0) or (_is_whole(vocabulary, 1) and padding >= vocabulary):
        faults.append(_expected(config, "pad_token_id", 'a whole number from 0 to below "vocab_size"'))
    of_heads = dict.fromkeys((family.classifier_dropout_key, "classifier_dropout"))
    given = [key for key in of_heads if key in family.defaults or config.get(key) is not None]
    faults += _probability_faults(config, [*_PROBABILITIES, *given])
    for key in _POSITIVE:
        if not (_is_real(config[key]) and 0 < config[key] < math.inf):
            faults.append(_expected(config, key, "a number above 0"))
    if config["hidden_act"] not in ACTIVATIONS:
        faults.append(_expected(config, "hidden_act", f"one of {', '.join(ACTIVATIONS)}"))
    for key, value in _FIXED.items():
        found = config.get(key, value)
        if type(found) is not type(value) or found != value:
            faults.append(_expected(config, key, f"{_show(value)}, the only one supported"))
    return faults


def _head_faults(config: dict[str, Any]) -> list[str]:
    """Return one phrase for each wrong key of those that a fine-tuned model's configuration has besides."""
    faults = _size_faults(config, [key for key in _HEAD_SIZES if config.get(key) is not None])
    for key in ("id2label", "label2id"):
        if not isinstance(config.get(key) or {}, dict):
            faults.append(_expected(config, key, "an object"))
    return faults


def _size_faults(config: dict[str, Any], keys: Iterable[str]) -> list[str]:
    return [_expected(config, key, "a whole number from 1") for key in keys if not _is_whole(config[key], 1)]


def _probability_faults(config: dict[str, Any], keys: Iterable[str]) -> list[str]:
    return [
        _expected(config, key, "a probability from 0 to below 1")
        for key in keys
        if not (_is_real(config[key]) and 0 <= config[key] < 1)
    ]


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expected(config: dict[str, Any], key: str, wanted: str) -> str:
    return f'"{key}" is {_show(config[key])}, expected {wanted}'


def _show(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


KINDS = ("base", "large", "none")
MODULES = ("alignment", "attention", "norm", "bottleneck")
"""The conditional modules of CA-MTL, each of which can be left out."""
LAST_LAYERS = ("published", "pretrained")
"""What the last layer of base begins as: fresh, since the published code names it otherwise than BERT, or as BERT's."""


@dataclass(frozen=True)
class Arrangement:
    """What one encoder layer of CA-MTL has (Pilault et al. 2021, openreview de11dbHzAMF).

    It is told relative to the model's depth; the paper's numbers are those of 12 layers (base) and 24 (large):

    - attention: all layers;
    - norms: the upper half, base 6–11, large 12–23;
    - bottleneck: base, behind the last layer; large, a side stream along all layers.

    So a model of 6 layers has conditional norms in 3–5 and, under base, its bottleneck in 5.

    Args:
        attention: whether a matrix of the task is added to the attention's scores.
        norms: whether layer norms are conditional.
        bottleneck: whether a bottleneck and a norm of its own follow the feed-forward.
        side_stream: whether a bottleneck carries the side stream on.
    """

    attention: bool
    norms: bool
    bottleneck: bool
    side_stream: bool


def is_conditional(config: Any) -> bool:
    """Whether a model's configuration asks for conditional modules."""
    return getattr(config, "conditional", "none") != "none"


def has_module(config: Any, name: str) -> bool:
    """Whether a conditional model has one of `MODULES`: all, unless its ``conditional_modules`` names some."""
    return name in (getattr(config, "conditional_modules", None) or MODULES)


def has_side_stream(config: Any) -> bool:
    """Whether the heads read a second stream of hidden states, that of the bottlenecks."""
    return getattr(config, "conditional", "none") == "large" and has_module(config, "bottleneck")


def arrangement(config: Any, index: int) -> Arrangement:
    """Return what encoder layer ``index``, from 0, has.

    Args:
        config: with ``conditional``, one of `KINDS` but "none", and ``num_hidden_layers``; see `has_module`. Without
            bottlenecks, the heads read the encoder's own stream.
        index: of the layer.
    """
    layers = config.num_hidden_layers
    is_last_of_base = config.conditional == "base" and index == layers - 1
    return Arrangement(
        attention=has_module(config, "attention"),
        norms=2 * index >= layers and has_module(config, "norm"),
        bottleneck=is_last_of_base and has_module(config, "bottleneck"),
        side_stream=has_side_stream(config),
    )


def refuse_pairs(title: str, type_vocab_size: int) -> None:
    """Raise `UserError` where pairs, of which ``title`` names the origin, meet a model that has one token type only."""
    if type_vocab_size < 2:
        raise UserError(
            f"{title}: has pairs of texts, the second of token type 1, but the model's type_vocab_size is "
            f"{type_vocab_size}; needed is a model with 2"
        )
