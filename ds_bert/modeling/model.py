"""A model as a pipeline: ``[Embeddings, EncoderLayer x L, Head]``, of any family, with any head."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from transformers import PretrainedConfig

from ds_bert.errors import UserError
from ds_bert.modeling.conditional import conditional_carry, conditional_layers
from ds_bert.modeling.config import is_conditional
from ds_bert.modeling.families import family_of
from ds_bert.modeling.heads import MakeHead, head_named
from ds_bert.modeling.layers import BatchShape, Embeddings, Field, Layer, encoder_carry, encoder_layers

# What a configuration says of labels, and of the folder that it was read from: its weights' type and what they lack.
_OF_LABELS = ("num_labels", "id2label", "label2id", "problem_type", "finetuning_task")
_OF_FOLDER = ("dtype", "torch_dtype", "ds_bert")


def build_config(fields: Mapping[str, Any], head: str | MakeHead = "pretraining") -> PretrainedConfig:
    """Build transformers' configuration of what is trained, and saved in fp32.

    Attention is named explicitly: transformers leaves it unset outside its own models, and then drops padding masks.

    Args:
        fields: those of a ``config.json`` that `load_model_config` has checked; ``num_labels`` overrides what labels
            the file names, unless there are as many. A head without labels has none, whatever the file says: some of
            transformers' classes would size it by them.
        head: a name in `ds_bert.modeling.heads.HEADS`, or a layer of the user's own: which of transformers' classes
            ``architectures`` names.

    Raises:
        UserError: the family has no such head.
    """
    family, entry = family_of(fields), head_named(head)
    if isinstance(head, str) and family.heads is not None and head not in family.heads:
        raise UserError(f"a model of the family {family.model_type} has no head {head}, only {', '.join(family.heads)}")
    labels = fields.get("num_labels")
    if labels is not None and len(fields.get("id2label") or ()) != labels:
        fields = {key: value for key, value in fields.items() if key not in ("id2label", "label2id")}
    has_labels = entry.labels == "of a task" or not isinstance(head, str)
    foreign = _OF_FOLDER if has_labels else (*_OF_FOLDER, *_OF_LABELS)
    kept = {key: value for key, value in fields.items() if key not in foreign}
    architectures = [family.class_prefix + (entry.class_ending or "Model")]
    config = family.whole("Config")(**{**kept, "architectures": architectures, "dtype": "float32"})
    config._attn_implementation = "sdpa"
    return config


def model_layers(config: PretrainedConfig, head: str | MakeHead) -> list[Callable[[], Layer]]:
    """Describe the L + 2 layers of one model; each is built by calling it.

    Args:
        config: from `build_config`; where it has ``conditional``, the layers are those of
            `ds_bert.modeling.conditional`.
        head: a name in `ds_bert.modeling.heads.HEADS`, or a function (or class) that makes the layer of ``config``.
    """
    last = partial(head_named(head).make, config)
    if is_conditional(config):
        return [*conditional_layers(config), last]
    return [partial(Embeddings, config), *encoder_layers(config), last]


def carry_declaration(config: PretrainedConfig, dtype: torch.dtype) -> Callable[[int, int, bool], list[Field]]:
    """Return the function that declares what crosses a boundary, from a micro-batch's (rows, length, padded).

    Args:
        config: the model's.
        dtype: of activations.
    """

    def declare(rows: int, length: int, padded: bool) -> list[Field]:
        shape = BatchShape(rows, length, padded)
        return [*encoder_carry(config.hidden_size, dtype, shape), *conditional_carry(config, dtype, shape)]

    return declare
