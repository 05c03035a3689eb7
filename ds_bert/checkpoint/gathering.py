"""Bringing the tensors of a file together on the process that writes it, in the memory of its host.

Parts that lie on other processes travel from host to host, so that no device holds more than it trains with.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
import torch.distributed as dist


def host_memory(elements: int, dtype: torch.dtype, pinned: bool = False) -> torch.Tensor:
    """Reserve memory of the host, pinned where a GPU is to copy into it while other things go on."""
    return torch.empty(elements, dtype=dtype, pin_memory=pinned)


def copies(parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy one-dimensional tensors of one device to the host; a GPU is waited for once."""
    device = next((part.device for part in parts.values()), torch.device("cpu"))
    if device.type != "cuda":
        return {name: host_memory(len(part), part.dtype).copy_(part) for name, part in parts.items()}
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        copied = {
            name: host_memory(len(part), part.dtype, pinned=True).copy_(part, non_blocking=True)
            for name, part in parts.items()
        }
    stream.synchronize()
    return copied


def bring_together(shares: Mapping[str, Any], writer: int, rank: int, group: Any) -> dict[str, torch.Tensor]:
    """Send this process's parts of a file's tensors to its writer, or put them together with those of the others.

    All processes that have parts of several files must call this for them in the same order.

    Args:
        shares: of the file's tensors by their names there: all on the writer, on others at least those that it holds
            a part of; the engine's `Share`, or one whose ``part`` is on the host already.
        writer: rank of the process that writes the file.
        rank: this process's.
        group: a gloo group of all processes.

    Returns:
        On the writer the whole tensors, on the CPU: where nothing had to be copied, views of what was handed in.
        Nothing on the others.
    """
    parts = {name: share.part for name, share in shares.items()}
    if any(part.device.type != "cpu" for part in parts.values()):
        parts = copies(parts)
    whole: dict[str, torch.Tensor] = {}
    works: list[Any] = []
    for name, share in sorted(shares.items()):  # every two processes must see their messages in the same order
        flat, size = parts[name], prod(share.shape)
        if rank == writer and len(flat) < size:
            flat = host_memory(size, flat.dtype)
            flat[share.begin : share.begin + len(parts[name])].copy_(parts[name])
        for holder, begin, end in share.sources(writer):
            if rank == writer != holder:
                works.append(dist.irecv(flat[begin:end], holder, group))
            elif rank == holder != writer:
                works.append(dist.isend(flat, writer, group))
        if rank == writer:
            whole[name] = flat.view(share.shape)
    for work in works:
        work.wait()
    return whole
