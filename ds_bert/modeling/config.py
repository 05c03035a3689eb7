"""A model's configuration: Hugging Face's ``config.json`` for BERT, read and checked without transformers."""

import math
from pathlib import Path
from typing import Any

from ds_bert.errors import UserError
from ds_bert.files import find_config, read_json

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
BERT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
# fmt: off
ACTIVATIONS = (
    "gelu", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "mish", "quick_gelu",
    "relu", "relu2", "silu", "swish", "tanh",
)
# fmt: on

_PROBABILITIES = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_POSITIVE = ("initializer_range", "layer_norm_eps")
# Keys that change the model; each has one value that is supported, which is also its default.
_FIXED = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def load_model_config(name_or_path: str | Path) -> dict[str, Any]:
    """Read a BERT configuration and fill in BERT's defaults.

    Args:
        name_or_path: a folder that holds ``config.json``, a JSON file, or the name of a file in ``ds_configs/models``.

    Returns:
        The file's keys, unknown ones included, over `BERT_DEFAULTS`.

    Raises:
        UserError: nothing is found under that name (the shipped names are listed), or the file is not the
            configuration of a BERT model; the message names every key that is wrong.
    """
    folder = Path(name_or_path)
    path = folder / "config.json" if folder.is_dir() else find_config("models", name_or_path)
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: found {_show(data)} at the top level, a model configuration is a JSON object")
    config = BERT_DEFAULTS | data
    faults = _faults(config)
    if faults:
        raise UserError(f"{path}: {'; '.join(faults)}")
    return config


def _faults(config: dict[str, Any]) -> list[str]:
    """Return one phrase for each key of ``config`` that does not describe a BERT model."""
    faults = [_expected(config, key, "a whole number from 1") for key in SIZES if not _is_whole(config[key], 1)]
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if _is_whole(hidden, 1) and _is_whole(heads, 1) and hidden % heads:
        faults.append(f'"hidden_size" {hidden} is not divisible by "num_attention_heads" {heads}')
    vocabulary, padding = config["vocab_size"], config["pad_token_id"]
    if not _is_whole(padding, 0) or (_is_whole(vocabulary, 1) and padding >= vocabulary):
        faults.append(_expected(config, "pad_token_id", 'a whole number from 0 to below "vocab_size"'))
    for key in _PROBABILITIES:
        if not (_is_real(config[key]) and 0 <= config[key] < 1):
            faults.append(_expected(config, key, "a probability from 0 to below 1"))
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


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expected(config: dict[str, Any], key: str, wanted: str) -> str:
    return f'"{key}" is {_show(config[key])}, expected {wanted}'


def _show(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
