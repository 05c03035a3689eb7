"""What each layer of a BERT pre-training pipeline costs: parameters, floating-point operations, bytes. No torch.

With hidden size H, intermediate size I, vocabulary V, A attention heads, sequence length T and M masked positions, the
matrix products of one forward pass, at 2·a·b·c operations for (a × b)·(b × c), are

- encoder layer: 8·T·H² (query, key, value, output) + 4·T²·H (scores, context) + 4·T·H·I (feed-forward);
- head: 2·H² (pooler) + 2·M·H² (transform) + 2·M·H·V (decoder) + 4·H (next sentence);
- embeddings: none, they are looked up.

A backward pass takes twice as many. With I = 4H this is the count of Narayanan et al. 2021, "Efficient Large-Scale
Language Model Training on GPU Clusters Using Megatron-LM" (arXiv 2104.04473), 24·T·H² + 4·T²·H for a layer.

Activations are what a backward pass needs, counted as by Korthikanti et al. 2022, "Reducing Activation Recomputation
in Large Transformer Models" (arXiv 2205.05198): T·H·34 + 5·A·T² bytes for a layer in 16 bits with I = 4H. Attention
that does not keep the T × T scores (SDPA's fused kernels) needs less.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ds_bert.modeling.config import SIZES

_MASK_BYTES = 1  # for each element that passes dropout


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer of the pipeline."""

    name: str
    """"embeddings", "encoder layer 0", …, "head"."""
    parameters: int
    """Parameters this layer owns; the head's decoder matrix belongs to the embeddings."""
    flops: int
    """Floating-point operations of matrix products, forward and backward, for one sequence."""
    activation_bytes: int
    """Bytes kept from forward to backward for one sequence."""
    tied_parameters: int = 0
    """Parameters owned by the embeddings that this layer uses too; a stage without the embeddings holds a copy."""


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
    config: object, sequence_length: int, max_predictions: int, bytes_per_value: int = 4
) -> list[LayerCost]:
    """Return the cost of each of the L + 2 layers: embeddings, encoder layers, pre-training head.

    Args:
        config: BERT's configuration: a mapping, or an object with attributes.
        sequence_length: tokens of a sequence, T.
        max_predictions: masked positions of a sequence, M.
        bytes_per_value: bytes of an activation: 4 in fp32, 2 in bf16.
    """
    values = {name: config[name] if isinstance(config, Mapping) else getattr(config, name) for name in SIZES}
    layer = _encoder_layer(values, sequence_length, bytes_per_value)
    return [
        _embeddings(values, sequence_length, bytes_per_value),
        *(LayerCost(f"encoder layer {index}", *layer) for index in range(values["num_hidden_layers"])),
        _head(values, max_predictions, bytes_per_value),
    ]


def _embeddings(config: dict[str, int], tokens: int, width: int) -> LayerCost:
    hidden = config["hidden_size"]
    rows = config["vocab_size"] + config["max_position_embeddings"] + config["type_vocab_size"]
    normalised_and_dropped = tokens * hidden * (width + _MASK_BYTES)
    return LayerCost("embeddings", (rows + 2) * hidden, 0, normalised_and_dropped)


def _encoder_layer(config: dict[str, int], tokens: int, width: int) -> tuple[int, int, int]:
    """Return (parameters, flops, activation bytes) of one encoder layer."""
    hidden, intermediate, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    attention = 4 * (hidden * hidden + hidden)
    feed_forward = 2 * hidden * intermediate + intermediate + hidden
    layer_norms = 2 * 2 * hidden
    forward = 8 * tokens * hidden**2 + 4 * tokens**2 * hidden + 4 * tokens * hidden * intermediate
    # per token: inputs of query/key/value, of the scores (2), of the context, of the output, of the feed-forward and
    # of two LayerNorms; inputs of GELU and of the second product; two dropout masks
    per_token = hidden * (8 * width + 2 * _MASK_BYTES) + 2 * intermediate * width
    per_score = 2 * width + _MASK_BYTES  # softmax, its dropped-out copy, the mask
    return attention + feed_forward + layer_norms, 3 * forward, tokens * per_token + heads * tokens**2 * per_score


def _head(config: dict[str, int], predictions: int, width: int) -> LayerCost:
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    pooler = hidden * hidden + hidden
    transform = hidden * hidden + hidden + 2 * hidden
    next_sentence = 2 * hidden + 2
    forward = 2 * hidden**2 + 2 * predictions * hidden**2 + 2 * predictions * hidden * vocabulary + 4 * hidden
    # per masked position: inputs of the transform, GELU, LayerNorm and decoder, and the log-probabilities; the pooler's
    # input and output
    activations = predictions * (4 * hidden + vocabulary) * width + 2 * hidden * width
    parameters = pooler + transform + vocabulary + next_sentence
    return LayerCost("head", parameters, 3 * forward, activations, tied_parameters=vocabulary * hidden)


def stage_parameters(layers: Sequence[LayerCost]) -> int:
    """Return the parameters that a stage of these ``layers`` holds, its copy of the tied matrix included."""
    owns_tied = any(layer.name == "embeddings" for layer in layers)
    return sum(layer.parameters + (0 if owns_tied else layer.tied_parameters) for layer in layers)


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
