"""The layers of the pipeline that families have in common, around the modules of each."""

from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn

from ds_bert.modeling.families import family_of
from ds_bert.modeling.functions import embedding_lookup, tied_decoder
from ds_bert.modeling.layer import Carry, Layer


class Embeddings(Layer):
    """Token ids to hidden states: embeddings of width E, brought to the encoder's width H where that is another."""

    embeddings: Any

    def __init__(self, config: Any) -> None:
        super().__init__()
        family = family_of(config)
        self.embeddings, self.projection = family.embeddings(config), None
        self.prefixes = {"embeddings.": family.prefix + family.embedding_names[0]}
        if family.has_projection(vars(config)):
            self.projection = family.projection(config)
            self.prefixes["projection."] = family.prefix + family.embedding_names[1]

    def forward(self, inputs: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Embed ``input_ids`` and ``token_type_ids`` (B, T) as ``hidden`` (B, T, H); pass on ``attention_mask``."""
        word = self.embeddings.word_embeddings
        padding_id = -1 if word.padding_idx is None else word.padding_idx
        words_BTE = embedding_lookup(word.weight, inputs["input_ids"], padding_id)
        embedded_BTE = self.embeddings(inputs_embeds=words_BTE, token_type_ids=inputs["token_type_ids"])
        carry = {"hidden": embedded_BTE if self.projection is None else self.projection(embedded_BTE)}
        if "attention_mask" in inputs:
            carry["attention_mask"] = inputs["attention_mask"]
        return carry


class EncoderLayer(Layer):
    """One encoder layer: transformers' module ``block``, whose names in a checkpoint begin with ``prefix``."""

    def __init__(self, block: nn.Module, prefix: str) -> None:
        super().__init__()
        self.prefixes = {"block.": prefix}
        self.block = block

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Replace ``hidden`` (B, T, H); tokens outside ``attention_mask`` (B, T) are not attended to."""
        mask_BT = carry.get("attention_mask")
        mask_B11T = None if mask_BT is None else mask_BT[:, None, None, :]
        return {**carry, "hidden": self.block(carry["hidden"], mask_B11T)}


def encoder_layers(config: Any) -> list[Callable[[], EncoderLayer]]:
    """Describe the encoder; each layer is built by calling it.

    Layers with one set of parameters that are built in one process hold one module; on other stages, they are tied by
    its name.
    """
    groups: MutableMapping[int, nn.Module] = WeakValueDictionary()
    return [partial(_encoder_layer, config, index, groups) for index in range(config.num_hidden_layers)]


def _encoder_layer(config: Any, index: int, groups: MutableMapping[int, nn.Module]) -> EncoderLayer:
    family = family_of(config)
    number = family.group(vars(config), index)
    block = groups.get(number)
    if block is None:
        block = groups[number] = family.encoder_layer(config, number)
    return EncoderLayer(block, f"{family.prefix}{family.layer_name}{number}.")


class FirstTokenPooler(nn.Linear):
    """Hidden states (B, T, H) to the sequence's state (B, H)."""

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Apply the layer and tanh to the first token."""
        return torch.tanh(super().forward(hidden_BTH[:, 0]))


class PretrainingHead(Layer):
    """Predictions of masked words and of a sentence pair (Devlin et al. 2019, section 3.1; Lan et al. 2020, 3.1).

    Word logits are computed at masked positions only. The decoder's matrix is the word embeddings, tied by its name.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        family = family_of(config)
        self.prefixes = {
            "pooler.": family.prefix + family.pooler_name,
            "transform.": family.transform_name,
            "bias": f"{family.predictions_name}bias",
            "seq_relationship.": family.seq_relationship_name,
            "decoder_weight": family.word_embeddings,
        }
        self.pooler = family.pooler(config)
        self.transform, self.seq_relationship = family.transform(config), family.seq_relationship(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.decoder_weight = nn.Parameter(torch.empty(config.vocab_size, family.embedding_size(vars(config))))

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
