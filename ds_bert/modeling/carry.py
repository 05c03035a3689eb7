"""The Carry: the declared message between stages.

Layers hand each other a dictionary of tensors. What of it crosses a stage boundary is declared here, so that the
transport knows shapes and types without asking and a gradient travels back for what needs one and nothing else.
"""

from typing import NamedTuple

import torch


class BatchShape(NamedTuple):
    """What the tensors of one micro-batch look like: known to every stage before the first byte arrives."""

    rows: int
    length: int
    padded: bool


class Field(NamedTuple):
    """One tensor of the Carry."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    has_gradient: bool


def encoder_carry(hidden_size: int, dtype: torch.dtype, shape: BatchShape) -> list[Field]:
    """Declare what one encoder layer hands to the next.

    ``hidden``: (B, T, H) activations. ``attention_mask``: (B, T) bool, True at real tokens; absent where nothing is
    padded, which lets attention take its faster path.
    """
    fields = [Field("hidden", (shape.rows, shape.length, hidden_size), dtype, has_gradient=True)]
    if shape.padded:
        fields.append(Field("attention_mask", (shape.rows, shape.length), torch.bool, has_gradient=False))
    return fields
