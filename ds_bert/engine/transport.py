"""Activations forth and gradients back, as one message per boundary, direction and micro-batch.

Both ends know a message's layout from the Carry's declaration, so nothing is asked before it is sent. Receives are
posted one message ahead and sends are waited for late, so that the wires work while the stage computes. Every boundary
has a group of its own for each direction: neither direction waits for the other, on gloo and on NCCL alike.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch
import torch.distributed as dist

from ds_bert.engine.process_group import Grid

_ALIGNMENT = 16


class Field(Protocol):
    """One tensor of a message."""

    @property
    def name(self) -> str:
        """Its name in the Carry."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> torch.dtype:
        """Its type."""

    @property
    def has_gradient(self) -> bool:
        """Whether its gradient travels back."""


def message_layout(fields: Sequence[Field]) -> tuple[list[tuple[int, int]], int]:
    """Place tensors one behind the other; return each one's (begin, end) and the message's length, in bytes."""
    places, position = [], 0
    for field in fields:
        size = prod(field.shape) * field.dtype.itemsize
        places.append((position, position + size))
        position += -(-size // _ALIGNMENT) * _ALIGNMENT
    return places, position


def pack(fields: Sequence[Field], tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Put ``tensors`` into one message of bytes; a single one is its own message, without a copy if contiguous."""
    if len(tensors) == 1:
        return tensors[0].detach().contiguous().view(-1).view(torch.uint8)
    places, size = message_layout(fields)
    message = torch.empty(size, dtype=torch.uint8, device=tensors[0].device)
    for (begin, end), tensor in zip(places, tensors, strict=True):
        message[begin:end].view(tensor.dtype).view(tensor.shape).copy_(tensor.detach())
    return message


def unpack(fields: Sequence[Field], message: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors of a message, as views into it."""
    places, _ = message_layout(fields)
    return [
        message[begin:end].view(field.dtype).view(field.shape)
        for field, (begin, end) in zip(fields, places, strict=True)
    ]


@dataclass
class _Channel:
    """Messages in one direction over one boundary, seen from one end."""

    peer: int
    name: str
    group: dist.ProcessGroup
    device: torch.device

    def __post_init__(self) -> None:
        self.posted: deque[tuple[Sequence[Field], torch.Tensor, Any]] = deque()
        self.sent: deque[tuple[torch.Tensor, Any]] = deque()
        self.bytes_sent = 0

    def send(self, fields: Sequence[Field], tensors: Sequence[torch.Tensor]) -> None:
        while self.sent and self.sent[0][1].is_completed():
            self.sent.popleft()[1].wait()
        message = pack(fields, tensors)
        self.bytes_sent += message.numel()
        self.sent.append((message, dist.isend(message, self.peer, group=self.group)))

    def post_receive(self, fields: Sequence[Field]) -> None:
        _, size = message_layout(fields)
        if len(fields) == 1:
            size = prod(fields[0].shape) * fields[0].dtype.itemsize
        message = torch.empty(size, dtype=torch.uint8, device=self.device)
        self.posted.append((fields, message, dist.irecv(message, self.peer, group=self.group)))

    def receive(self) -> list[torch.Tensor]:
        fields, message, work = self.posted.popleft()
        try:
            work.wait()
        except RuntimeError as error:
            raise RuntimeError(f"nothing comes from {self.name}: {error}") from error
        return unpack(fields, message)

    def flush(self) -> None:
        while self.sent:
            self.sent.popleft()[1].wait()


class Transport:
    """The channels of one process: activations from the stage before and to the next, gradients the other way."""

    def __init__(self, grid: Grid) -> None:
        self.activations_in: _Channel | None = None
        self.activations_out: _Channel | None = None
        self.gradients_in: _Channel | None = None
        self.gradients_out: _Channel | None = None
        for stage in range(grid.num_stages - 1):
            for replica in range(grid.num_replicas):
                self._open_boundary(grid, stage, replica)

    def _open_boundary(self, grid: Grid, stage: int, replica: int) -> None:
        before, after = grid.rank_of(stage, replica), grid.rank_of(stage + 1, replica)
        forth, back = grid.new_group([before, after]), grid.new_group([before, after])
        if grid.rank == before:
            self.activations_out = _Channel(after, grid.describe(after), forth, grid.device)
            self.gradients_in = _Channel(after, grid.describe(after), back, grid.device)
        elif grid.rank == after:
            self.activations_in = _Channel(before, grid.describe(before), forth, grid.device)
            self.gradients_out = _Channel(before, grid.describe(before), back, grid.device)

    @property
    def channels(self) -> list[_Channel]:
        """The channels that this process has an end of."""
        ends = (self.activations_in, self.activations_out, self.gradients_in, self.gradients_out)
        return [channel for channel in ends if channel is not None]

    def flush(self) -> None:
        """Wait until everything sent has left."""
        for channel in self.channels:
            channel.flush()

    @property
    def bytes_sent(self) -> int:
        """Bytes that this process has sent so far, activations and gradients."""
        return sum(channel.bytes_sent for channel in self.channels)
