"""Bringing a micro-batch's tensors to the device before they are needed, without making anything wait."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from ds_bert.engine.device import host_buffer
from ds_bert.engine.transport import message_layout, unpack

Tensors = dict[str, torch.Tensor]


class _Part(NamedTuple):
    """One tensor of a copy; see `ds_bert.engine.transport.Field`."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    has_gradient: bool = False


class Uploader:
    """Copies tensors to a device: as one piece, from pinned memory, on a stream of its own.

    Many small copies would each wait for memory that the system may move; and on the stream that computes, a copy would
    wait for all that is queued there.

    Args:
        device: where tensors are wanted; on a CPU they are already there.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, tensors: Mapping[str, torch.Tensor] | None) -> Callable[[], Tensors]:
        """Begin to copy; return what gives the tensors on the device, to be called where they are needed."""
        here = dict(tensors or {})
        if self._stream is None or all(tensor.device == self.device for tensor in here.values()):
            return lambda: here
        parts = [_Part(name, tuple(tensor.shape), tensor.dtype) for name, tensor in here.items()]
        message = host_buffer([message_layout(parts)[1]], torch.uint8)
        for view, tensor in zip(unpack(parts, message), here.values(), strict=True):
            view.copy_(tensor)
        with torch.cuda.stream(self._stream):
            there = message.to(self.device, non_blocking=True)
            done = torch.cuda.Event()
            done.record()

        def arrived() -> Tensors:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(done)
            there.record_stream(stream)
            return {part.name: tensor for part, tensor in zip(parts, unpack(parts, there), strict=True)}

        return arrived


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a small tensor from the CPU to a device, in the order of what is queued there."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
