"""The conditional modules: each bends what BERT computes by a vector that says which task an example is of.

Shapes: B examples, T tokens, H hidden size, z the condition of each example, (B, H).
"""

import torch
import torch.nn.functional as F
from torch import nn


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
