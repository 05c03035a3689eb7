"""The second, simpler implementation: transformers' BertForPreTraining and torch on one process, batch by batch."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForPreTraining

from ds_bert.modeling.model import initialize


@dataclass(frozen=True)
class Trajectory:
    """What a training run did: a loss and a gradient norm (before clipping) per step, and the weights at its end."""

    losses: np.ndarray
    norms: np.ndarray
    weights: dict[str, np.ndarray]


@dataclass(frozen=True)
class Deviation:
    """How far a trajectory is from another: relative, except for the key bias, whose true gradient is zero."""

    loss: float
    norm: float
    weights: float
    key_bias: float


def reference_model(config: BertConfig, seed: int, dtype: torch.dtype = torch.float32) -> BertForPreTraining:
    """Transformers' model with our first weights."""
    model = BertForPreTraining(config)
    for name, parameter in model.named_parameters():
        initialize(name, parameter.data, config.initializer_range, seed, config.pad_token_id)
    return model.to(dtype)


def reference_loss(model: BertForPreTraining, batch: dict[str, np.ndarray]) -> torch.Tensor:
    """Mean over the masked words plus mean over the pairs, with logits and labels at every position."""
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    output = model(
        input_ids=tensors["input_ids"],
        token_type_ids=tensors["token_type_ids"],
        attention_mask=tensors["attention_mask"].long(),
    )
    labels = torch.full_like(tensors["input_ids"], -100)
    labels.scatter_(1, tensors["masked_positions"], tensors["masked_labels"])
    words = F.cross_entropy(output.prediction_logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    return words + F.cross_entropy(output.seq_relationship_logits, tensors["next_sentence_label"])


def train_reference(
    config: BertConfig,
    batches: Iterable[dict[str, np.ndarray]],
    *,
    seed: int,
    optimizer: str,
    options: dict[str, Any],
    weight_decay: float,
    max_grad_norm: float,
    learning_rate: float,
    dtype: torch.dtype = torch.float32,
) -> Trajectory:
    """Train on one global batch after another."""
    model = reference_model(config, seed, dtype)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    torch_optimizer = kind(groups, lr=learning_rate, **options)
    losses, norms = [], []
    for batch in batches:
        loss = reference_loss(model, batch)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm).item())
        losses.append(loss.item())
        torch_optimizer.step()
        torch_optimizer.zero_grad()
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    return Trajectory(np.array(losses), np.array(norms), weights)


def deviation(found: Trajectory, expected: Trajectory) -> Deviation:
    """Measure the largest deviations; the weights' is per tensor, max|a - b| / max|b|, of zeros max|a|.

    What is no number stays none, so that no bound holds for it. (Python's max passes over it.)
    """
    assert found.weights.keys() == expected.weights.keys()
    differences = {name: np.abs(found.weights[name] - weights).max() for name, weights in expected.weights.items()}
    key_bias = {name for name in differences if name.endswith("key.bias")}
    return Deviation(
        loss=float(np.abs(found.losses / expected.losses - 1).max()),
        norm=float(np.abs(found.norms / expected.norms - 1).max()),
        weights=float(
            np.max(
                [
                    differences[name] / (np.abs(expected.weights[name]).max() or 1.0)
                    for name in differences.keys() - key_bias
                ]
            )
        ),
        key_bias=float(np.max([differences[name] for name in key_bias], initial=0.0)),
    )
