"""BERT as pipeline layers: ``[Embeddings, EncoderLayer x L, PretrainingHead]``, each around transformers' modules."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import BertConfig
from transformers.models.bert import modeling_bert

from ds_bert.modeling.functions import embedding_lookup, tied_decoder
from ds_bert.modeling.layer import Carry, Layer

WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"


def bert_config(fields: Mapping[str, Any]) -> BertConfig:
    """Build transformers' configuration from the fields of a ``config.json``.

    Attention is named explicitly: transformers leaves it unset outside its own models, and then drops padding masks.
    """
    config = BertConfig(**{**fields, "architectures": ["BertForPreTraining"]})
    config._attn_implementation = "sdpa"
    return config


class Embeddings(Layer):
    """Token ids to hidden states."""

    prefixes = {"embeddings.": "bert.embeddings."}

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.embeddings = modeling_bert.BertEmbeddings(config)

    def forward(self, inputs: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Embed ``input_ids`` and ``token_type_ids`` (B, T) as ``hidden`` (B, T, H); pass on ``attention_mask``."""
        word = self.embeddings.word_embeddings
        padding_id = -1 if word.padding_idx is None else word.padding_idx
        words_BTH = embedding_lookup(word.weight, inputs["input_ids"], padding_id)
        hidden_BTH = self.embeddings(inputs_embeds=words_BTH, token_type_ids=inputs["token_type_ids"])
        carry = {"hidden": hidden_BTH}
        if "attention_mask" in inputs:
            carry["attention_mask"] = inputs["attention_mask"]
        return carry


class EncoderLayer(Layer):
    """One transformer block."""

    def __init__(self, config: BertConfig, index: int) -> None:
        super().__init__()
        self.prefixes = {"block.": f"bert.encoder.layer.{index}."}
        self.block = modeling_bert.BertLayer(config, layer_idx=index)

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Replace ``hidden`` (B, T, H); tokens outside ``attention_mask`` (B, T) are not attended to."""
        mask_BT = carry.get("attention_mask")
        mask_B11T = None if mask_BT is None else mask_BT[:, None, None, :]
        return {**carry, "hidden": self.block(carry["hidden"], mask_B11T)}


class PretrainingHead(Layer):
    """Masked-word and next-sentence predictions (Devlin et al. 2019, section 3.1).

    Word logits are computed at masked positions only. The decoder's matrix is the word embeddings, tied by its name.
    """

    prefixes = {
        "pooler.": "bert.pooler.",
        "transform.": "cls.predictions.transform.",
        "bias": "cls.predictions.bias",
        "seq_relationship.": "cls.seq_relationship.",
        "decoder_weight": WORD_EMBEDDINGS,
    }

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.pooler = modeling_bert.BertPooler(config)
        self.transform = modeling_bert.BertPredictionHeadTransform(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.decoder_weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Predict at the ``masked_positions`` (N,) of the labels, counted over the flattened (B, T) tokens.

        Returns ``mlm_logits`` (N, V), in the order of the positions (all B·T without labels), and ``nsp_logits``
        (B, 2).
        """
        hidden_BTH = carry["hidden"]
        tokens_NH = hidden_BTH.flatten(0, 1)
        if labels is not None:
            tokens_NH = tokens_NH.index_select(0, labels["masked_positions"])
        mlm_logits_NV = tied_decoder(self.transform(tokens_NH), self.decoder_weight, self.bias)
        return {"mlm_logits": mlm_logits_NV, "nsp_logits": self.seq_relationship(self.pooler(hidden_BTH))}


def pretraining_layers(config: BertConfig) -> list[Callable[[], Layer]]:
    """Describe the L+2 layers of a BERT for pre-training; each is built by calling it."""
    blocks = [partial(EncoderLayer, config, index) for index in range(config.num_hidden_layers)]
    return [partial(Embeddings, config), *blocks, partial(PretrainingHead, config)]
