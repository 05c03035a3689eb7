"""A model as a pipeline: ``[Embeddings, EncoderLayer x L, Head]``, of any family, with any head."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from transformers import PretrainedConfig

from ds_bert.modeling.beam_head import BeamQuestionAnsweringHead
from ds_bert.modeling.carry import BatchShape, Field, encoder_carry
from ds_bert.modeling.conditional.arrangement import is_conditional
from ds_bert.modeling.conditional.layers import conditional_carry, conditional_layers
from ds_bert.modeling.families import FAMILIES, family_of
from ds_bert.modeling.heads import (
    MultipleChoiceHead,
    QuestionAnsweringHead,
    SequenceClassificationHead,
    TokenClassificationHead,
)
from ds_bert.modeling.layer import Layer

MakeHead = Callable[[PretrainedConfig], Layer]


def pretraining_head(config: PretrainedConfig) -> Layer:
    """Build the family's head of masked words and sentence pairs."""
    return family_of(config).pretraining_head(config)


HEADS: dict[str, MakeHead] = {
    "pretraining": pretraining_head,
    "sequence-classification": SequenceClassificationHead,
    "multiple-choice": MultipleChoiceHead,
    "question-answering": QuestionAnsweringHead,
    "beam-question-answering": BeamQuestionAnsweringHead,
    "token-classification": TokenClassificationHead,
}
# What follows the family's name in transformers' class of a whole model; where there is none, the encoder's own.
_CLASSES = {
    "pretraining": "ForPreTraining",
    "sequence-classification": "ForSequenceClassification",
    "multiple-choice": "ForMultipleChoice",
    "question-answering": "ForQuestionAnswering",
    "token-classification": "ForTokenClassification",
}
_WITHOUT_LABELS = ("pretraining", "multiple-choice", "question-answering", "beam-question-answering")
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
        head: a name in `HEADS`, or a layer of the user's own: which of transformers' classes ``architectures`` names.
    """
    family = FAMILIES[fields.get("model_type", "bert")]
    labels = fields.get("num_labels")
    if labels is not None and len(fields.get("id2label") or ()) != labels:
        fields = {key: value for key, value in fields.items() if key not in ("id2label", "label2id")}
    foreign = _OF_FOLDER + (_OF_LABELS if head in _WITHOUT_LABELS else ())
    kept = {key: value for key, value in fields.items() if key not in foreign}
    kind = _CLASSES.get(head, "Model") if isinstance(head, str) else "Model"
    config = family.config(**{**kept, "architectures": [family.name + kind], "dtype": "float32"})
    config._attn_implementation = "sdpa"
    return config


def model_layers(config: PretrainedConfig, head: str | MakeHead) -> list[Callable[[], Layer]]:
    """Describe the L + 2 layers of one model; each is built by calling it.

    Args:
        config: from `build_config`; where it has ``conditional``, the layers are those of
            `ds_bert.modeling.conditional`.
        head: a name in `HEADS`, or a function (or class) that makes the last layer from ``config``.
    """
    family = family_of(config)
    if isinstance(head, str):
        head = family.pretraining_head if head == "pretraining" else HEADS[head]
    if is_conditional(config):
        return [*conditional_layers(config), partial(head, config)]
    return [partial(family.embeddings, config), *family.encoder_layers(config), partial(head, config)]


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
