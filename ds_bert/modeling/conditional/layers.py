"""CA-MTL's pipeline layers, around transformers' modules of BERT.

Beside ``hidden``, the Carry has ``condition`` (B, H), the task's vector z' of each example, and, in the large
arrangement, ``side`` (B, T, H), the stream of the bottlenecks. Parameters that Hugging Face has no name for are
``conditional.*``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from ds_bert.modeling.carry import BatchShape, Field
from ds_bert.modeling.conditional.arrangement import arrangement, has_side_stream, is_conditional
from ds_bert.modeling.conditional.modules import (
    ConditionalAttention,
    ConditionalBottleneck,
    Film,
    attention_bias,
    conditional_norm,
)
from ds_bert.modeling.families import family_of
from ds_bert.modeling.families.layers import Embeddings, encoder_layers
from ds_bert.modeling.layer import Carry, Layer

TASK_EMBEDDING = "conditional.task_embedding."
"""What the names of the parameters begin with that belong to the tasks one by one, beside the decoders."""


class ConditionalEmbeddings(Layer):
    """BERT's embeddings, aligned with the task; here the task's vectors begin, too.

    Args:
        config: with ``tasks``, as many as there are rows of the task embedding.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.plain = Embeddings(config)
        self.prefixes = {
            **{f"plain.{local}": name for local, name in self.plain.prefixes.items()},
            "task_embedding.": TASK_EMBEDDING,
            "transform.": "conditional.transform.",
            "alignment.": "conditional.alignment.",
        }
        self.task_embedding = nn.Embedding(len(config.tasks), hidden)
        self.transform = nn.Linear(hidden, hidden)
        self.alignment = Film(hidden, hidden)
        self.has_side_stream = has_side_stream(config)

    def forward(self, inputs: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Embed ``input_ids`` and ``token_type_ids`` (B, T) of the tasks ``task_ids`` (B,)."""
        task_BH = self.task_embedding(inputs["task_ids"])
        carry = self.plain(inputs)
        carry["hidden"] = self.alignment(task_BH, carry["hidden"])
        carry["condition"] = self.transform(task_BH)
        if self.has_side_stream:
            carry["side"] = torch.zeros_like(carry["hidden"])
        return carry


class ConditionalEncoderLayer(Layer):
    """One transformer block with the conditional modules of its place; see `Arrangement`."""

    def __init__(self, config: Any, index: int) -> None:
        super().__init__()
        hidden, has = config.hidden_size, arrangement(config, index)
        self.plain = encoder_layers(config)[index]()
        self.prefixes = {"plain.block.": self.plain.prefixes["block."], "": f"conditional.layer.{index}."}
        self.attention = ConditionalAttention(hidden, config.conditional_length)
        self.attention_norm = Film(hidden, hidden) if has.norms else None
        self.output_norm = Film(hidden, hidden) if has.norms else None
        self.bottleneck = ConditionalBottleneck(hidden) if has.bottleneck or has.side_stream else None
        self.has_side_stream = has.side_stream

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Replace ``hidden`` and, in the large arrangement, ``side`` (B, T, H), by the task's ``condition`` (B, H)."""
        condition_BH = carry["condition"]
        attended_BTH = self._attend(carry, condition_BH)
        hidden_BTH = self._feed_forward(attended_BTH, condition_BH)
        changed = {"hidden": hidden_BTH}
        if self.has_side_stream:
            assert self.bottleneck is not None
            changed["side"] = self.bottleneck(condition_BH, hidden_BTH + carry["side"])
        return {**carry, **changed}

    def _attend(self, carry: Carry, condition_BH: torch.Tensor) -> torch.Tensor:
        hidden_BTH, attention = carry["hidden"], cast(Any, self.plain.block.attention)
        matrix_BTT = self.attention(condition_BH, hidden_BTH.shape[1])
        context_BTH, _ = attention.self(hidden_BTH, attention_bias(matrix_BTT, carry.get("attention_mask")))
        attended_BTH = attention.output.dropout(attention.output.dense(context_BTH))
        return conditional_norm(
            attention.output.LayerNorm, self.attention_norm, condition_BH, attended_BTH + hidden_BTH
        )

    def _feed_forward(self, attended_BTH: torch.Tensor, condition_BH: torch.Tensor) -> torch.Tensor:
        block = cast(Any, self.plain.block)
        output_BTH = block.output.dropout(block.output.dense(block.intermediate(attended_BTH)))
        if self.bottleneck is not None and not self.has_side_stream:
            output_BTH = self.bottleneck(condition_BH, output_BTH)
        return conditional_norm(block.output.LayerNorm, self.output_norm, condition_BH, output_BTH + attended_BTH)


class MultitaskHead(Layer):
    """A decoder for each task: pooler, dropout, and a linear layer of as many outputs as the task has labels.

    The decoders are one matrix: all of them are computed, and each example's are picked.

    Args:
        config: with ``tasks``, each of which has ``labels``, none in regression.
    """

    columns: torch.Tensor
    exists: torch.Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        family, counts = family_of(config), [max(1, len(task["labels"])) for task in config.tasks]
        self.prefixes = {"pooler.": family.prefix + family.pooler_name, "decoders.": "conditional.decoders."}
        self.pooler = family.pooler(config)
        self.dropout = nn.Dropout(family.classifier_dropout(config))
        self.decoders = nn.Linear(config.hidden_size, sum(counts))
        columns, exists = _decoder_columns(counts)
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("exists", exists, persistent=False)
        self.stream = "side" if has_side_stream(config) else "hidden"

    def forward(self, carry: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Return ``logits`` (B, C) of the tasks ``task_ids`` (B,) in ``labels``.

        C is the most labels of a task; where an example's task has fewer, the others' logits are minus infinity.
        """
        assert labels is not None, "this head needs to be told the tasks"
        tasks_B = labels["task_ids"]
        all_logits = self.decoders(self.dropout(self.pooler(carry[self.stream])))
        logits_BC = all_logits.gather(1, self.columns[tasks_B])
        return {"logits": logits_BC.masked_fill(~self.exists[tasks_B], -torch.inf)}


def _decoder_columns(counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each task's logits lie among all, int64 (tasks, C), and which of the C it has, bool."""
    sizes = torch.tensor(counts)
    places = torch.arange(max(counts))[None]
    exists = places < sizes[:, None]
    first = sizes.cumsum(0) - sizes
    return torch.where(exists, first[:, None] + places, 0), exists


def conditional_layers(config: Any) -> list[Callable[[], Layer]]:
    """Describe embeddings and encoder of a conditional model; each layer is built by calling it."""
    encoder = [partial(ConditionalEncoderLayer, config, index) for index in range(config.num_hidden_layers)]
    return [partial(ConditionalEmbeddings, config), *encoder]


def conditional_carry(config: Any, dtype: torch.dtype, shape: BatchShape) -> list[Field]:
    """Declare what a conditional model's layers hand on beside `encoder_carry`; nothing for a plain model."""
    if not is_conditional(config):
        return []
    hidden = config.hidden_size
    fields = [Field("condition", (shape.rows, hidden), dtype, has_gradient=True)]
    if has_side_stream(config):
        fields.append(Field("side", (shape.rows, shape.length, hidden), dtype, has_gradient=True))
    return fields
