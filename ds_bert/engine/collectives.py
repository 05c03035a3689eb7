"""Collectives over some of the processes, on tensors of the device, whichever backend carries them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from ds_bert.engine.device import host_buffer
from ds_bert.engine.process_group import Grid

# torch's names from 2.13 on, and before.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
# Thread blocks of a kernel that may spin for long, as it waits for another stage: few of a GPU's hundred or more.
WAITING_BLOCKS = 4


class Work(Protocol):
    """Something under way."""

    def wait(self) -> Any:
        """Let what follows on this device come after it; gloo's also keeps this thread until then."""

    def is_completed(self) -> bool:
        """Whether it is done."""


class Group:
    """Processes that compute something together.

    Under gloo a GPU's tensors go through the host's memory.

    Args:
        grid: of this process; all processes of the grid must make the same groups.
        ranks: of the members.
        across_stages: whether members wait long for each other, as other stages are done at other times.
    """

    def __init__(self, grid: Grid, ranks: Sequence[int], across_stages: bool) -> None:
        self.size, self.device = len(ranks), grid.device
        options = nccl_options(grid) if across_stages else None
        self.group = grid.new_group(ranks, options=options) if self.size > 1 else None
        self.is_queued = grid.backend == "nccl"
        self.is_staged = not self.is_queued and grid.device.type != "cpu"

    def all_reduce(self, tensor: torch.Tensor) -> Work | None:
        """Begin to add up ``tensor`` in place; None where this process is alone."""
        if self.group is None:
            return None
        if self.is_staged:
            host = to_host(tensor)
            return _Staged(dist.all_reduce(host, group=self.group, async_op=True), host, tensor)
        return dist.all_reduce(tensor, group=self.group, async_op=True)

    def reduce_scatter(self, own: torch.Tensor, whole: torch.Tensor) -> Work:
        """Begin to add up ``whole``, of which ``own`` is this process's part and all that will be right; NCCL only."""
        return _reduce_scatter(own, whole, group=self.group, async_op=True)

    def all_gather(self, whole: torch.Tensor, own: torch.Tensor) -> Work:
        """Begin to fill ``whole`` with the parts of all processes, of which ``own`` is this one's."""
        if self.is_staged:
            host = host_buffer(whole.shape, whole.dtype)
            return _Staged(_all_gather(host, to_host(own), group=self.group, async_op=True), host, whole)
        return _all_gather(whole, own, group=self.group, async_op=True)

    def connect(self) -> None:
        """Meet the others once: NCCL connects at the first call, and waits for all of them there."""
        if (work := self.all_reduce(torch.zeros(1, device=self.device))) is not None:
            work.wait()


class _Staged:
    """Work on a copy in the host's memory, whose result goes back to the device."""

    def __init__(self, work: Work, host: torch.Tensor, target: torch.Tensor) -> None:
        self.work, self.host, self.target = work, host, target

    def wait(self) -> None:
        self.work.wait()
        self.target.copy_(self.host, non_blocking=True)

    def is_completed(self) -> bool:
        return self.work.is_completed()


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a device's tensor to the host, and wait for it."""
    return host_buffer(tensor.shape, tensor.dtype).copy_(tensor)


def nccl_options(grid: Grid) -> Any:
    """Options of a group whose kernels may wait for long: few blocks, on streams that go first; None under gloo."""
    if grid.backend != "nccl" or not hasattr(dist, "ProcessGroupNCCL"):
        return None
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=grid.timeout_seconds)
    options.is_high_priority_stream = True
    options.config.max_ctas = WAITING_BLOCKS
    return options
