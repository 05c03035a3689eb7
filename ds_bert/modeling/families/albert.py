"""ALBERT (Lan et al. 2020) as pipeline layers around transformers' modules.

Encoder layers of one group have one set of parameters: they share the group's names in a checkpoint, and what shares a
name is one tied parameter, whatever stages the layers lie on.
"""

from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from functools import partial
from weakref import WeakValueDictionary

import torch
from torch import nn
from transformers import AlbertConfig
from transformers.activations import ACT2FN
from transformers.models.albert import modeling_albert

from ds_bert.modeling.families.family import EmbeddingsBase, EncoderLayerBase, Family, PretrainingHeadBase
from ds_bert.modeling.layer import Layer

WORD_EMBEDDINGS = "albert.embeddings.word_embeddings.weight"


class Embeddings(EmbeddingsBase):
    """Token ids to embeddings of width E, then to hidden states of width H."""

    prefixes = {"embeddings.": "albert.embeddings.", "projection.": "albert.encoder.embedding_hidden_mapping_in."}

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.embeddings = modeling_albert.AlbertEmbeddings(config)
        self.projection = nn.Linear(config.embedding_size, config.hidden_size)

    def project(self, embedded_BTE: torch.Tensor) -> torch.Tensor:
        """Bring embeddings to the width of the encoder, (B, T, H)."""
        return self.projection(embedded_BTE)


class EncoderLayer(EncoderLayerBase):
    """One pass through the group of blocks that this layer belongs to.

    Args:
        config: the model's.
        index: of the layer, from 0.
        groups: groups that other layers in this process hold, by number; taken from there, or added.
    """

    def __init__(self, config: AlbertConfig, index: int, groups: MutableMapping[int, nn.Module]) -> None:
        number = int(index / (config.num_hidden_layers / config.num_hidden_groups))
        group = groups.get(number)
        if group is None:
            group = groups[number] = _group(config)
        super().__init__(group, f"albert.encoder.albert_layer_groups.{number}.")


def _group(config: AlbertConfig) -> nn.Module:
    group = modeling_albert.AlbertLayerGroup(config)
    for block in group.albert_layers:
        block.activation = _activation(config.hidden_act)
    return group


def encoder_layers(config: AlbertConfig) -> list[Callable[[], Layer]]:
    """Describe the encoder; each layer is built by calling it, and those of one group then hold one module."""
    groups: MutableMapping[int, nn.Module] = WeakValueDictionary()
    return [partial(EncoderLayer, config, index, groups) for index in range(config.num_hidden_layers)]


class Pooler(nn.Linear):
    """Hidden states (B, T, H) to the sequence's state (B, H)."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config.hidden_size, config.hidden_size)

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Apply the layer and tanh to the first token."""
        return torch.tanh(super().forward(hidden_BTH[:, 0]))


class PretrainingHead(PretrainingHeadBase):
    """Masked-word and sentence-order predictions (Lan et al. 2020, section 3.1)."""

    prefixes = {
        "pooler.": "albert.pooler.",
        "transform.": "predictions.",
        "bias": "predictions.bias",
        "seq_relationship.": "sop_classifier.",
        "decoder_weight": WORD_EMBEDDINGS,
    }

    def __init__(self, config: AlbertConfig) -> None:
        hidden, width = config.hidden_size, config.embedding_size
        transform = OrderedDict(
            dense=nn.Linear(hidden, width),
            activation=_activation(config.hidden_act),
            LayerNorm=nn.LayerNorm(width, eps=config.layer_norm_eps),
        )
        order = OrderedDict(dropout=nn.Dropout(config.classifier_dropout_prob), classifier=nn.Linear(hidden, 2))
        super().__init__((config.vocab_size, width), Pooler(config), nn.Sequential(transform), nn.Sequential(order))


def _activation(name: str) -> nn.Module:
    """Transformers' activation; "gelu_new" in one kernel, which keeps one tensor for the backward pass, not four."""
    return nn.GELU(approximate="tanh") if name == "gelu_new" else ACT2FN[name]


def _classifier_dropout(config: AlbertConfig) -> float:
    return config.classifier_dropout_prob


ALBERT = Family(
    name="Albert",
    prefix="albert.",
    config=AlbertConfig,
    embeddings=Embeddings,
    encoder_layers=encoder_layers,
    pretraining_head=PretrainingHead,
    pooler=Pooler,
    classifier_dropout=_classifier_dropout,
)
