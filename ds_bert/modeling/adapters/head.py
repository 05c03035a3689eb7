"""LEOPARD's head (Bansal et al. 2020): a sequence's encoding, and the generator of a class's weights from examples."""

from typing import Any

import torch
from torch import nn

from ds_bert.modeling.families import family_of
from ds_bert.modeling.layers import Carry, Layer

GENERATOR = "meta.generator."
HEAD = "meta.head."


def _two_layers(width: int, hidden: int, output: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, output))


class MetaHead(Layer):
    """What a class is told by: encodings of examples, and what class embeddings are averaged from.

    Args:
        config: the model's, with ``meta_learning``; see `ds_bert.modeling.adapters.layers.MetaModel`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        family, sizes = family_of(config), config.meta_learning
        self.prefixes = {"pooler.": family.prefix + family.pooler_name, "head.": HEAD, "generator.": GENERATOR}
        self.pooler, self.pooling = family.pooler(config), sizes["pooling"]
        self.dropout = nn.Dropout(family.classifier_dropout(config))
        width, hidden, encoding = config.hidden_size, sizes["head_hidden_size"], sizes["encoding_size"]
        self.head = _two_layers(width, hidden, encoding)
        self.generator = _two_layers(width, hidden, encoding + 1)

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Return what a task's loss is made of.

        ``encoding`` (B, D), ``generated`` (B, D + 1), ``pooled`` (B, H), what they are made of, after dropout, and
        ``mean`` (B, H), the mean of the tokens' states.
        """
        hidden_BTH, mask_BT = carry["hidden"], carry.get("attention_mask")
        weights_BT1 = torch.ones_like(hidden_BTH[..., :1]) if mask_BT is None else mask_BT[..., None].to(hidden_BTH)
        mean_BH = (hidden_BTH * weights_BT1).sum(1) / weights_BT1.sum(1)
        pooled_BH = self.dropout(mean_BH if self.pooling == "mean" else self.pooler(hidden_BTH))
        return {
            "encoding": self.head(pooled_BH),
            "generated": self.generator(pooled_BH),
            "pooled": pooled_BH,
            "mean": mean_BH,
        }
