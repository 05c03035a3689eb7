"""Toy models of both families, as chains of layers on one process and as transformers' own."""

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig

from ds_bert.modeling.families import family_of
from ds_bert.modeling.model import Carry, Layer, build_config, initialize, model_layers
from tests.support.toy import SIZES

BOTH = ("bert", "albert")
# Heads that transformers has a class for.
CLASSES = {
    "pretraining": "ForPreTraining",
    "sequence-classification": "ForSequenceClassification",
    "multiple-choice": "ForMultipleChoice",
    "question-answering": "ForQuestionAnswering",
    "token-classification": "ForTokenClassification",
}
LABELS, CHOICES = 3, 4


def toy_model(family: str, head: str, **changes: Any) -> PretrainedConfig:
    """Four encoder layers of width 32, ALBERT's embeddings of width 24; nothing is dropped."""
    fields = SIZES | {
        "model_type": family,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "num_labels": LABELS if head.endswith("classification") else 2,
        "num_choices": CHOICES,
    }
    if family == "albert":
        fields |= {"embedding_size": 24, "classifier_dropout_prob": 0.0}
    return build_config(fields | changes, head)


@dataclass
class Chain:
    """All layers on one process, tied, without an engine."""

    layers: list[Layer]
    parameters: dict[str, torch.nn.Parameter]

    def run(self, inputs: Carry, labels: Carry | None = None) -> Carry:
        """From the inputs to the head's outputs."""
        carry = inputs
        for layer in self.layers:
            carry = layer(carry, labels)
        return carry


def chain(config: PretrainedConfig, head: Any, seed: int = 1) -> Chain:
    """Build the layers with their first weights, in evaluation mode."""
    layers = [make().eval() for make in model_layers(config, head)]
    parameters: dict[str, torch.nn.Parameter] = {}
    for layer in layers:
        for local, parameter in list(layer.named_parameters()):
            path, _, attribute = local.rpartition(".")
            kept = parameters.setdefault(layer.hugging_face_name(local), parameter)
            setattr(layer.get_submodule(path), attribute, kept)
    _fill(parameters, config, seed)
    return Chain(layers, parameters)


def transformers_model(config: PretrainedConfig, head: str, seed: int = 1) -> Any:
    """Transformers' model with our first weights, in evaluation mode."""
    model = getattr(transformers, family_of(config).class_prefix + CLASSES[head])(config)
    _fill(dict(model.named_parameters()), config, seed)
    return model.eval()


def _fill(parameters: dict[str, torch.nn.Parameter], config: PretrainedConfig, seed: int) -> None:
    for name, parameter in parameters.items():
        initialize(name, parameter.data, config.initializer_range, seed, config.pad_token_id)
