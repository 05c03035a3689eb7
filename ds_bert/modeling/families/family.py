"""What a family of encoders provides, and the layers that families have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ds_bert.modeling.functions import embedding_lookup, tied_decoder
from ds_bert.modeling.layer import Carry, Layer


@dataclass(frozen=True)
class Family:
    """What `ds_bert.modeling.model` and the heads build a model of; functions take transformers' configuration.

    Args:
        name: what transformers' classes begin with, "Bert".
        prefix: what the encoder's names in a checkpoint begin with, "bert.".
        config: transformers' class of configurations.
        embeddings: the first layer.
        encoder_layers: builders of the encoder's layers.
        pretraining_head: the last layer of pre-training.
        pooler: a module from ``hidden`` (B, T, H) to the sequence's state (B, H); named ``prefix`` + "pooler.".
        classifier_dropout: dropout before a classifier.
    """

    name: str
    prefix: str
    config: type
    embeddings: Callable[[Any], Layer]
    encoder_layers: Callable[[Any], list[Callable[[], Layer]]]
    pretraining_head: Callable[[Any], Layer]
    pooler: Callable[[Any], nn.Module]
    classifier_dropout: Callable[[Any], float]


class EmbeddingsBase(Layer):
    """Token ids to hidden states."""

    embeddings: Any
    """Transformers' module: embeddings of tokens, types and positions, their sum's norm and dropout."""

    def project(self, embedded_BTE: torch.Tensor) -> torch.Tensor:
        """Bring embeddings to the width of the encoder, (B, T, H)."""
        return embedded_BTE

    def forward(self, inputs: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Embed ``input_ids`` and ``token_type_ids`` (B, T) as ``hidden`` (B, T, H); pass on ``attention_mask``."""
        word = self.embeddings.word_embeddings
        padding_id = -1 if word.padding_idx is None else word.padding_idx
        words_BTE = embedding_lookup(word.weight, inputs["input_ids"], padding_id)
        embedded_BTE = self.embeddings(inputs_embeds=words_BTE, token_type_ids=inputs["token_type_ids"])
        carry = {"hidden": self.project(embedded_BTE)}
        if "attention_mask" in inputs:
            carry["attention_mask"] = inputs["attention_mask"]
        return carry


class EncoderLayerBase(Layer):
    """One transformer block: transformers' module ``block``, whose names in a checkpoint begin with ``prefix``."""

    def __init__(self, block: nn.Module, prefix: str) -> None:
        super().__init__()
        self.prefixes = {"block.": prefix}
        self.block = block

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Replace ``hidden`` (B, T, H); tokens outside ``attention_mask`` (B, T) are not attended to."""
        mask_BT = carry.get("attention_mask")
        mask_B11T = None if mask_BT is None else mask_BT[:, None, None, :]
        return {**carry, "hidden": self.block(carry["hidden"], mask_B11T)}


class PretrainingHeadBase(Layer):
    """Predictions of masked words and of a sentence pair.

    Word logits are computed at masked positions only. The decoder's matrix is the word embeddings, tied by its name.

    Args:
        embeddings_shape: of the word embeddings, (V, E).
        pooler: from hidden states (B, T, H) to the pair's (B, H).
        transform: from a token's hidden state (N, H) to what the decoder is applied to, (N, E).
        seq_relationship: from the pair's state to two logits.
    """

    def __init__(
        self, embeddings_shape: tuple[int, int], pooler: nn.Module, transform: nn.Module, seq_relationship: nn.Module
    ) -> None:
        super().__init__()
        self.pooler, self.transform, self.seq_relationship = pooler, transform, seq_relationship
        self.bias = nn.Parameter(torch.zeros(embeddings_shape[0]))
        self.decoder_weight = nn.Parameter(torch.empty(embeddings_shape))

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Predict at the ``masked_positions`` (N,) of the labels, counted over the flattened (B, T) tokens.

        Returns ``mlm_logits`` (N, V), in the order of the positions (all B·T without labels), and ``nsp_logits``
        (B, 2): whether the second sentence follows, or whether two are swapped.
        """
        hidden_BTH = carry["hidden"]
        tokens_NH = hidden_BTH.flatten(0, 1)
        if labels is not None:
            tokens_NH = tokens_NH.index_select(0, labels["masked_positions"])
        mlm_logits_NV = tied_decoder(self.transform(tokens_NH), self.decoder_weight, self.bias)
        return {"mlm_logits": mlm_logits_NV, "nsp_logits": self.seq_relationship(self.pooler(hidden_BTH))}
