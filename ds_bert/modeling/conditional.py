"""CA-MTL (Pilault et al. 2021): each module bends what BERT computes by a vector that says which task an example is of.

Shapes: B examples, T tokens, H hidden size, z the condition of each example, (B, H).

Everything is computed per example, so that a micro-batch may hold any mix of tasks.

Beside ``hidden``, the Carry has ``condition`` (B, H), the task's vector z' of each example, and, in the large
arrangement, ``side`` (B, T, H), the stream of the bottlenecks. Parameters that Hugging Face has no name for are
``conditional.*``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from ds_bert.modeling.config import arrangement, has_module, has_side_stream
from ds_bert.modeling.families import family_of
from ds_bert.modeling.model import Carry, Embeddings, Layer, encoder_layers


class Film(nn.Module):
    """Feature-wise linear modulation: (γ, β) = Linear(z), x ↦ (1 + γ) ⊙ x + β (Perez et al. 2018, "FiLM").

    Args:
        condition_size: of z.
        size: of what is modulated.
    """

    def __init__(self, condition_size: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition_size, 2 * size)

    def scale_and_shift(self, condition_BH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return 1 + γ and β of each example, (B, size) each."""
        gamma_BS, beta_BS = self.linear(condition_BH).chunk(2, dim=-1)
        return 1 + gamma_BS, beta_BS

    def forward(self, condition_BH: torch.Tensor, values_BTS: torch.Tensor) -> torch.Tensor:
        """Modulate every token's values, (B, T, size)."""
        scale_BS, shift_BS = self.scale_and_shift(condition_BH)
        return torch.addcmul(shift_BS[:, None], scale_BS[:, None], values_BTS)


class ConditionalAttention(nn.Module):
    """What is added to the attention's scores: a block-diagonal matrix, modulated by the task.

    The parameter A has a row for each of L positions and w = ⌈L / blocks⌉ columns. Positions i and j of one block of w
    get (1 + γ_c)·A[i, c] + β_c with c = j mod w, all others 0. With blocks = H // L these are the sizes of the paper's
    code, which needs H to be a multiple of L: 6 blocks of 22 in BERT-base at length 128.

    Args:
        hidden_size: H.
        length: L, the most tokens of a sequence.
    """

    def __init__(self, hidden_size: int, length: int) -> None:
        super().__init__()
        self.block = block_size(hidden_size, length)
        self.bias = nn.Parameter(torch.zeros(length, self.block))
        self.film = Film(hidden_size, self.block)

    def forward(self, condition_BH: torch.Tensor, length: int) -> torch.Tensor:
        """Return the matrix of each example for sequences of T = ``length`` tokens, (B, T, T)."""
        positions_T = torch.arange(length, device=self.bias.device)
        columns_T = positions_T % self.block
        blocks_T = positions_T // self.block
        in_one_block_TT = blocks_T[:, None] == blocks_T
        scale_Bw, shift_Bw = self.film.scale_and_shift(condition_BH)
        matrix_TT = self.bias[:length].index_select(1, columns_T)
        scale_BT, shift_BT = scale_Bw.index_select(1, columns_T), shift_Bw.index_select(1, columns_T)
        return torch.addcmul(shift_BT[:, None], scale_BT[:, None], matrix_TT) * in_one_block_TT


def block_size(hidden_size: int, length: int) -> int:
    """Positions of a block of `ConditionalAttention`."""
    return -(-length // max(1, hidden_size // length))


def attention_bias(matrix_BTT: torch.Tensor, attention_mask_BT: torch.Tensor | None) -> torch.Tensor:
    """Return what transformers' attention adds to its scores, (B, 1, T, T): the matrix, and "never" at padding."""
    bias_B1TT = matrix_BTT[:, None]
    if attention_mask_BT is None:
        return bias_B1TT
    return bias_B1TT.masked_fill(~attention_mask_BT[:, None, None, :], torch.finfo(bias_B1TT.dtype).min)


def conditional_norm(
    norm: nn.LayerNorm, film: Film | None, condition_BH: torch.Tensor, hidden_BTH: torch.Tensor
) -> torch.Tensor:
    """Apply a pretrained layer norm, whose weight w becomes (1 + γ) ⊙ w + β; plainly where there is no ``film``."""
    if film is None:
        return norm(hidden_BTH)
    scale_BH, shift_BH = film.scale_and_shift(condition_BH)
    weight_BH = torch.addcmul(shift_BH, scale_BH, norm.weight)
    normal_BTH = F.layer_norm(hidden_BTH, norm.normalized_shape, eps=norm.eps)
    return torch.addcmul(norm.bias, normal_BTH, weight_BH[:, None])


class ConditionalBottleneck(nn.Module):
    """FiLM by W·z, then down to a third of the width and up again, without a non-linearity."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.condition = nn.Linear(hidden_size, hidden_size, bias=False)
        self.film = Film(hidden_size, hidden_size)
        self.down = nn.Linear(hidden_size, hidden_size // 3)
        self.up = nn.Linear(hidden_size // 3, hidden_size)

    def forward(self, condition_BH: torch.Tensor, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Return a state of each token, (B, T, H)."""
        return self.up(self.down(self.film(self.condition(condition_BH), hidden_BTH)))


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
        self.alignment = Film(hidden, hidden) if has_module(config, "alignment") else None
        self.has_side_stream = has_side_stream(config)

    def forward(self, inputs: Carry, labels: Carry | None = None) -> dict[str, torch.Tensor]:
        """Embed ``input_ids`` and ``token_type_ids`` (B, T) of the tasks ``task_ids`` (B,)."""
        task_BH = self.task_embedding(inputs["task_ids"])
        carry = self.plain(inputs)
        if self.alignment is not None:
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
        self.attention = ConditionalAttention(hidden, config.conditional_length) if has.attention else None
        self.attention_norm = Film(hidden, hidden) if has.norms else None
        self.output_norm = Film(hidden, hidden) if has.norms else None
        self.bottleneck = ConditionalBottleneck(hidden) if has.bottleneck or has.side_stream else None
        self.bottleneck_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps) if has.bottleneck else None
        self.bottleneck_film = Film(hidden, hidden) if has.bottleneck and has.norms else None
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
        mask_BT = carry.get("attention_mask")
        bias = None if mask_BT is None else mask_BT[:, None, None, :]
        if self.attention is not None:
            bias = attention_bias(self.attention(condition_BH, hidden_BTH.shape[1]), mask_BT)
        context_BTH, _ = attention.self(hidden_BTH, bias)
        attended_BTH = attention.output.dropout(attention.output.dense(context_BTH))
        return conditional_norm(
            attention.output.LayerNorm, self.attention_norm, condition_BH, attended_BTH + hidden_BTH
        )

    def _feed_forward(self, attended_BTH: torch.Tensor, condition_BH: torch.Tensor) -> torch.Tensor:
        """Return h = CLN₁(feed-forward + attended); in the last layer of base, CLN₂(bottleneck(h) + attended)."""
        block = cast(Any, self.plain.block)
        output_BTH = block.output.dropout(block.output.dense(block.intermediate(attended_BTH)))
        hidden_BTH = conditional_norm(block.output.LayerNorm, self.output_norm, condition_BH, output_BTH + attended_BTH)
        if self.bottleneck_norm is None:
            return hidden_BTH
        assert self.bottleneck is not None
        squeezed_BTH = self.bottleneck(condition_BH, hidden_BTH)
        return conditional_norm(self.bottleneck_norm, self.bottleneck_film, condition_BH, squeezed_BTH + attended_BTH)


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
