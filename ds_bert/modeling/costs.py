"""What each layer of a pipeline costs: parameters, floating-point operations, bytes. No torch.

With hidden size H, intermediate size I, vocabulary V, A attention heads and sequence length T, the matrix products of
one forward pass, at 2·a·b·c operations for (a × b)·(b × c), are

- encoder layer: 8·T·H² (query, key, value, output) + 4·T²·H (scores, context) + 4·T·H·I (feed-forward);
- embeddings: none, they are looked up; but 2·T·E·H where they have a width E of their own;
- head: see `ds_bert.modeling.heads`.

A backward pass takes twice as many. With I = 4H this is the count of Narayanan et al. 2021, "Efficient Large-Scale
Language Model Training on GPU Clusters Using Megatron-LM" (arXiv 2104.04473), 24·T·H² + 4·T²·H for a layer.

Activations are what a backward pass needs, counted as by Korthikanti et al. 2022, "Reducing Activation Recomputation
in Large Transformer Models" (arXiv 2205.05198): T·H·34 + 5·A·T² bytes for a layer in 16 bits with I = 4H. Attention
that does not keep the T × T scores (SDPA's fused kernels) needs less.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ds_bert.modeling.families import Fields, family_of, fields_of
from ds_bert.modeling.heads import Sizes, head_named

_MASK_BYTES = 1  # for each element that passes dropout


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer of the pipeline."""

    name: str
    """"embeddings", "encoder layer 0", …, "head"."""
    parameters: int
    """Parameters that this layer owns: those that no layer before it has."""
    flops: int
    """Floating-point operations of matrix products, forward and backward, for one sequence."""
    activation_bytes: int
    """Bytes kept from forward to backward for one sequence."""
    tied_parameters: int = 0
    """Parameters of an earlier layer that this layer uses too; a stage without that layer holds one copy of them."""
    tied_to: str = ""
    """The name of that layer: the embeddings of a decoder's matrix; the first of layers that share their parameters."""


@dataclass(frozen=True)
class StageMemory:
    """Bytes that one rank of a stage holds while it trains with AdamW."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes of everything."""
        return self.weights + self.gradients + self.optimizer + self.activations


def default_predictions(sequence_length: int) -> int:
    """Return the most masked positions of a sequence when 15 % are masked: 20 at length 128."""
    return math.ceil(0.15 * sequence_length)


def layer_costs(
    config: object,
    sequence_length: int,
    max_predictions: int,
    bytes_per_value: int = 4,
    head: str | Callable[..., Any] = "pretraining",
) -> list[LayerCost]:
    """Return the cost of each of the L + 2 layers: embeddings, encoder layers, head.

    Args:
        config: the model's configuration: a mapping, or an object with attributes.
        sequence_length: tokens of a sequence, T.
        max_predictions: masked positions of a sequence, M; of no matter to other heads than "pretraining".
        bytes_per_value: bytes of an activation: 4 in fp32, 2 in bf16.
        head: a name in `ds_bert.modeling.heads.HEADS`; a layer of the user's own counts as nothing.
    """
    fields = {**fields_of(config), "model_type": family_of(config).model_type}
    return [
        _embeddings(fields, sequence_length, bytes_per_value),
        *_encoder_layers(fields, sequence_length, bytes_per_value),
        _head(head, fields, (sequence_length, max_predictions, bytes_per_value)),
    ]


def training_flops(
    config: object, sequence_length: int, max_predictions: int = 0, head: str | Callable[..., Any] = "pretraining"
) -> int:
    """Return the floating-point operations of one sequence, forward and backward, through all layers.

    Only useful ones count: what activation checkpointing computes again does not.

    Args:
        config, sequence_length, max_predictions, head: as `layer_costs`'s.
    """
    return sum(layer.flops for layer in layer_costs(config, sequence_length, max_predictions, head=head))


def _embeddings(fields: Fields, tokens: int, width: int) -> LayerCost:
    family, hidden = family_of(fields), fields["hidden_size"]
    embedding = family.embedding_size(fields)
    rows = fields["vocab_size"] + fields["max_position_embeddings"] + fields["type_vocab_size"]
    parameters, flops = (rows + 2) * embedding, 0
    activations = tokens * embedding * (width + _MASK_BYTES)
    if family.has_projection(fields):
        parameters += embedding * hidden + hidden
        flops = 3 * 2 * tokens * embedding * hidden
        activations += tokens * embedding * width
    return LayerCost("embeddings", parameters, flops, activations)


def _encoder_layers(fields: Fields, tokens: int, width: int) -> list[LayerCost]:
    """Count every encoder layer; the first of each group owns the group's parameters."""
    family = family_of(fields)
    parameters, flops, activations = (family.blocks(fields) * count for count in _block(fields, tokens, width))
    costs: list[LayerCost] = []
    owners: dict[int, str] = {}
    for index in range(fields["num_hidden_layers"]):
        name, group = f"encoder layer {index}", family.group(fields, index)
        if group in owners:
            costs.append(LayerCost(name, 0, flops, activations, parameters, tied_to=owners[group]))
        else:
            owners[group] = name
            costs.append(LayerCost(name, parameters, flops, activations))
    return costs


def _block(fields: Fields, tokens: int, width: int) -> tuple[int, int, int]:
    """Return (parameters, flops, activation bytes) of one transformer block."""
    hidden, intermediate, heads = fields["hidden_size"], fields["intermediate_size"], fields["num_attention_heads"]
    attention = 4 * (hidden * hidden + hidden)
    feed_forward = 2 * hidden * intermediate + intermediate + hidden
    layer_norms = 2 * 2 * hidden
    forward = 8 * tokens * hidden**2 + 4 * tokens**2 * hidden + 4 * tokens * hidden * intermediate
    # per token: inputs of query/key/value, of the scores (2), of the context, of the output, of the feed-forward and
    # of two LayerNorms; inputs of GELU and of the second product; dropout masks
    per_token = hidden * (8 * width + family_of(fields).hidden_dropouts * _MASK_BYTES) + 2 * intermediate * width
    per_score = 2 * width + _MASK_BYTES  # softmax, its dropped-out copy, the mask
    return attention + feed_forward + layer_norms, 3 * forward, tokens * per_token + heads * tokens**2 * per_score


def _head(head: str | Callable[..., Any], fields: Fields, work: tuple[int, int, int]) -> LayerCost:
    """Count a head; ``work`` is (tokens, predictions, bytes of an activation)."""
    labels = fields.get("num_labels") or len(fields.get("id2label") or (0, 1))
    embedding = family_of(fields).embedding_size(fields)
    cost = head_named(head).cost(Sizes(fields["hidden_size"], embedding, fields["vocab_size"], labels, *work))
    return LayerCost("head", *cost, tied_to="embeddings" if cost.tied_parameters else "")


def stage_parameters(layers: Sequence[LayerCost]) -> int:
    """Return the parameters that a stage of these ``layers`` holds, its copies of tied ones included."""
    names = {layer.name for layer in layers}
    copies = {layer.tied_to: layer.tied_parameters for layer in layers if layer.tied_to not in names}
    return sum(layer.parameters for layer in layers) + sum(copies.values())


def stage_memory(
    layers: Sequence[LayerCost],
    *,
    micro_batch_size: int,
    micro_batches_in_flight: int,
    replicas: int = 1,
    zero_stage: int = 0,
    bf16: bool = False,
) -> StageMemory:
    """Estimate the bytes on one rank of a stage under 1F1B, without activation checkpointing.

    Gradients are counted in fp32. AdamW keeps two moments in fp32, and fp32 master weights beside bf16 ones; ZeRO 1
    shares master weights and moments between the replicas.

    Args:
        layers: the stage's layers, from `layer_costs` with the matching ``bytes_per_value``.
        micro_batch_size: sequences of a micro-batch.
        micro_batches_in_flight: micro-batches between their forward and their backward pass: at most p − s, and at
            most the micro-batches of a step.
        replicas: copies of the pipeline.
        zero_stage: 0 or 1.
        bf16: weights are bfloat16, else fp32.
    """
    parameters = stage_parameters(layers)
    optimizer = parameters * (12 if bf16 else 8)
    return StageMemory(
        weights=parameters * (2 if bf16 else 4),
        gradients=parameters * 4,
        optimizer=math.ceil(optimizer / replicas) if zero_stage == 1 else optimizer,
        activations=sum(layer.activation_bytes for layer in layers) * micro_batch_size * micro_batches_in_flight,
    )
