"""Adapters (Houlsby et al. 2019): small bottlenecks inside an encoder layer, trained while the layer stays as it is."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F


class Adapter(nn.Module):
    """x + W₂ gelu(W₁ x), near the identity at first."""

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, size)
        self.up = nn.Linear(size, hidden_size)

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Keep the shape (B, T, H)."""
        return hidden_BTH + self.up(F.gelu(self.down(hidden_BTH)))


class AdaptedDropout(nn.Module):
    """A dropout, and the adapters after it: one that all tasks share, if there is one, then the task's own."""

    def __init__(self, dropout: nn.Module, hidden_size: int, size: int, has_global: bool) -> None:
        super().__init__()
        self.dropout = dropout
        kinds = ("global", "task") if has_global else ("task",)
        self.adapter = nn.ModuleDict({kind: Adapter(hidden_size, size) for kind in kinds})

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Keep the shape (B, T, H)."""
        hidden_BTH = self.dropout(hidden_BTH)
        for adapter in self.adapter.values():
            hidden_BTH = adapter(hidden_BTH)
        return hidden_BTH


def insert_adapters(block: nn.Module, places: Sequence[str], hidden_size: int, size: int, has_global: bool) -> None:
    """Put adapters after the dropout of each of a block's modules ``places``, before residual and norm."""
    for output in map(block.get_submodule, places):
        dropout = cast(nn.Module, output.dropout)
        output.dropout = AdaptedDropout(dropout, hidden_size, size, has_global)
