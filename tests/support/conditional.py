"""CA-MTL written out: one example, one layer, one entry after another, from parameters by name."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

Parameters = Mapping[str, torch.Tensor]


def linear(parameters: Parameters, name: str, x: torch.Tensor) -> torch.Tensor:
    """Weight and bias of that name, the bias if there is one."""
    return F.linear(x, parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))


def film(parameters: Parameters, name: str, condition_H: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(1 + γ) ⊙ x + β of one example; x is (..., size)."""
    both = linear(parameters, f"{name}.linear", condition_H)
    gamma, beta = both[: len(both) // 2], both[len(both) // 2 :]
    return (1 + gamma) * x + beta


def attention_matrix(parameters: Parameters, name: str, condition_H: torch.Tensor, length: int) -> torch.Tensor:
    """The rows of A, modulated, cut into chunks of w, on the diagonal of a matrix of zeros, cropped to (T, T)."""
    modulated = film(parameters, f"{name}.film", condition_H, parameters[f"{name}.bias"])
    rows, width = modulated.shape
    full = torch.zeros(rows + width, rows + width, dtype=modulated.dtype)
    for begin in range(0, rows, width):
        for row in range(begin, min(begin + width, rows)):
            full[row, begin : begin + width] = modulated[row]
    return full[:length, :length]


def conditional_norm(
    parameters: Parameters, norm: str, film_name: str, condition_H: torch.Tensor, x_TH: torch.Tensor, eps: float
) -> torch.Tensor:
    """A layer norm whose weight, not bias, is modulated where there are parameters for it."""
    weight, bias = parameters[f"{norm}.weight"], parameters[f"{norm}.bias"]
    if f"{film_name}.linear.weight" in parameters:
        weight = film(parameters, film_name, condition_H, weight)
    rows = [(x - x.mean()) / torch.sqrt(x.var(correction=0) + eps) * weight + bias for x in x_TH]
    return torch.stack(rows)


def bottleneck(parameters: Parameters, name: str, condition_H: torch.Tensor, x_TH: torch.Tensor) -> torch.Tensor:
    """FiLM, down, up."""
    condition = parameters[f"{name}.condition.weight"] @ condition_H
    modulated = film(parameters, f"{name}.film", condition, x_TH)
    return linear(parameters, f"{name}.up", linear(parameters, f"{name}.down", modulated))


def encoder_layer(
    config: Any,
    parameters: Parameters,
    index: int,
    condition_H: torch.Tensor,
    hidden_TH: torch.Tensor,
    side_TH: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One example through one layer, without padding; returns hidden states and side stream."""
    bert, ours = f"bert.encoder.layer.{index}", f"conditional.layer.{index}"
    size = config.hidden_size // config.num_attention_heads
    matrix = hidden_TH.new_zeros(len(hidden_TH), len(hidden_TH))
    if f"{ours}.attention.bias" in parameters:
        matrix = attention_matrix(parameters, f"{ours}.attention", condition_H, len(hidden_TH))
    query, key, value = (linear(parameters, f"{bert}.attention.self.{kind}", hidden_TH) for kind in _QKV)
    heads = []
    for head in range(config.num_attention_heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ key[:, part].T / math.sqrt(size) + matrix
        heads.append(scores.softmax(-1) @ value[:, part])
    attended = linear(parameters, f"{bert}.attention.output.dense", torch.cat(heads, 1)) + hidden_TH
    eps = config.layer_norm_eps
    attended = conditional_norm(
        parameters, f"{bert}.attention.output.LayerNorm", f"{ours}.attention_norm", condition_H, attended, eps
    )
    output = linear(
        parameters, f"{bert}.output.dense", F.gelu(linear(parameters, f"{bert}.intermediate.dense", attended))
    )
    output = output + attended
    hidden = conditional_norm(parameters, f"{bert}.output.LayerNorm", f"{ours}.output_norm", condition_H, output, eps)
    has_bottleneck = f"{ours}.bottleneck.up.weight" in parameters
    if has_bottleneck and config.conditional == "base":  # as BertAdapter9 of the published code
        squeezed = bottleneck(parameters, f"{ours}.bottleneck", condition_H, hidden) + attended
        hidden = conditional_norm(
            parameters, f"{ours}.bottleneck_norm", f"{ours}.bottleneck_film", condition_H, squeezed, eps
        )
    if has_bottleneck and config.conditional == "large":
        side_TH = bottleneck(parameters, f"{ours}.bottleneck", condition_H, hidden + side_TH)
    return hidden, side_TH


_QKV = ("query", "key", "value")


def example_logits(
    config: Any, parameters: Parameters, task: int, ids_T: torch.Tensor, types_T: torch.Tensor
) -> torch.Tensor:
    """Logits of one example of one task, as many as the task has labels; nothing is dropped."""
    names = ("word_embeddings", "token_type_embeddings", "position_embeddings")
    word, kind, position = (parameters[f"bert.embeddings.{name}.weight"] for name in names)
    hidden = word[ids_T] + kind[types_T] + position[: len(ids_T)]
    hidden = conditional_norm(parameters, "bert.embeddings.LayerNorm", "", hidden[0], hidden, config.layer_norm_eps)
    if config.conditional != "none":
        hidden = _conditional_encoder(config, parameters, task, hidden)
    else:
        for index in range(config.num_hidden_layers):
            hidden, _ = encoder_layer(config, parameters, index, hidden[0], hidden, hidden)
    pooled = torch.tanh(linear(parameters, "bert.pooler.dense", hidden[0]))
    first = sum(max(1, len(other["labels"])) for other in config.tasks[:task])
    rows = slice(first, first + max(1, len(config.tasks[task]["labels"])))
    decoder = parameters["conditional.decoders.weight"][rows], parameters["conditional.decoders.bias"][rows]
    return F.linear(pooled, *decoder)


def _conditional_encoder(config: Any, parameters: Parameters, task: int, hidden: torch.Tensor) -> torch.Tensor:
    embedding = parameters["conditional.task_embedding.weight"][task]
    condition = linear(parameters, "conditional.transform", embedding)
    if "conditional.alignment.linear.weight" in parameters:
        hidden = film(parameters, "conditional.alignment", embedding, hidden)
    side = torch.zeros_like(hidden)
    for index in range(config.num_hidden_layers):
        hidden, side = encoder_layer(config, parameters, index, condition, hidden, side)
    reads_side = config.conditional == "large" and "conditional.layer.0.bottleneck.up.weight" in parameters
    return side if reads_side else hidden


def batch_loss(config: Any, parameters: Parameters, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean over the tasks present of each one's mean loss, over a whole batch with an attention mask."""
    losses: dict[int, list[torch.Tensor]] = {}
    for row, task in enumerate(batch["task_ids"].tolist()):
        real = batch["attention_mask"][row]
        ids, types = batch["input_ids"][row][real], batch["token_type_ids"][row][real]
        logits, label = example_logits(config, parameters, task, ids, types), batch["labels"][row]
        if config.tasks[task]["labels"]:
            loss = F.cross_entropy(logits[None], label.long()[None])
        else:
            loss = (logits[0] - label) ** 2
        losses.setdefault(task, []).append(loss)
    return torch.stack([torch.stack(of_task).mean() for of_task in losses.values()]).mean()
