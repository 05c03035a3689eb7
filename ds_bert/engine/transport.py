"""All that travels: collectives, activations forth and gradients back between stages, micro-batches to the device.

Both ends know a message's layout from the Carry's declaration, so nothing is asked before it is sent. Receives are
posted one message ahead and sends are waited for late, so that the wires work while the stage computes. Each direction
has a group of its own, so that neither waits for the other; within it, both backends keep the pairs of ranks apart.

Under NCCL a posted receive is a kernel that spins until its message comes. The two ends of a channel connect in their
first call, each waiting there for the other: with receives posted ahead, stage 0 would wait in its gradients' channel
and stage 1 in its activations', for ever. So `connect` lets the ends meet, boundary by boundary, before any is posted.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import prod
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist

from ds_bert.engine.process_group import Grid, host_buffer

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
class Channel:
    """Messages in one direction over one boundary, seen from one end.

    Args:
        peer: the other end's rank.
        name: of the other end, for people.
        group: of the direction.
        device: of the tensors.
        is_staged: whether messages go through the host's memory.
    """

    peer: int
    name: str
    group: dist.ProcessGroup
    device: torch.device
    is_staged: bool = False

    def __post_init__(self) -> None:
        self.posted: deque[tuple[Sequence[Field], torch.Tensor, Work]] = deque()
        self.sent: deque[tuple[torch.Tensor, Work]] = deque()
        self.bytes_sent = 0

    def send(self, fields: Sequence[Field], tensors: Sequence[torch.Tensor]) -> None:
        """Send tensors as one message, and go on."""
        while self.sent and self.sent[0][1].is_completed():
            self.sent.popleft()[1].wait()
        message = pack(fields, tensors)
        if self.is_staged:
            message = to_host(message)
        self.bytes_sent += message.numel()
        self.sent.append((message, _under_way(dist.isend(message, self.peer, group=self.group))))

    def post_receive(self, fields: Sequence[Field]) -> None:
        """Get ready for a message, before it is needed."""
        _, size = message_layout(fields)
        if len(fields) == 1:
            size = prod(fields[0].shape) * fields[0].dtype.itemsize
        if self.is_staged:
            message = host_buffer([size], torch.uint8)
        else:
            message = torch.empty(size, dtype=torch.uint8, device=self.device)
        work = _under_way(dist.irecv(message, self.peer, group=self.group))
        self.posted.append((fields, message, work))

    def receive(self) -> list[torch.Tensor]:
        """Return the tensors of the message that was posted first.

        Raises:
            RuntimeError: the other end has died, or has not answered in time.
        """
        fields, message, work = self.posted.popleft()
        try:
            work.wait()
        except RuntimeError as error:
            raise RuntimeError(f"nothing comes from {self.name}: {error}") from error
        return unpack(fields, message.to(self.device, non_blocking=True))

    def flush(self) -> None:
        """Wait until everything sent has left."""
        while self.sent:
            self.sent.popleft()[1].wait()


class Transport:
    """The channels of one process: activations from the stage before and to the next, gradients the other way."""

    def __init__(self, grid: Grid) -> None:
        self.activations_in: Channel | None = None
        self.activations_out: Channel | None = None
        self.gradients_in: Channel | None = None
        self.gradients_out: Channel | None = None
        self._stage = grid.stage
        if grid.num_stages == 1:
            return
        forth, back = (grid.new_group(options=nccl_options(grid)) for _ in range(2))
        is_staged = grid.device.type != "cpu" and grid.backend == "gloo"

        def channel(stage: int, group: dist.ProcessGroup) -> Channel:
            peer = grid.rank_of(stage, grid.replica)
            return Channel(peer, grid.describe(peer), group, grid.device, is_staged)

        if not grid.is_first:
            self.activations_in, self.gradients_out = channel(grid.stage - 1, forth), channel(grid.stage - 1, back)
        if not grid.is_last:
            self.activations_out, self.gradients_in = channel(grid.stage + 1, forth), channel(grid.stage + 1, back)

    def connect(self) -> None:
        """Send one byte over every channel; both ends must call this before anything else is sent or posted.

        Boundaries of even number come first, then the others, so that a long pipeline connects as fast as a short one.
        """
        for parity in (0, 1):
            if self._stage % 2 == parity:
                _greet(self.activations_out, self.gradients_in)
            else:
                _greet(self.gradients_out, self.activations_in, sends_first=False)

    @property
    def channels(self) -> list[Channel]:
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


def _greet(outgoing: Channel | None, incoming: Channel | None, sends_first: bool = True) -> None:
    """Exchange one byte with the process at the other end of two channels."""
    if outgoing is None or incoming is None:
        return
    for sends in (sends_first, not sends_first):
        if sends:
            byte = torch.zeros(1, dtype=torch.uint8, device="cpu" if outgoing.is_staged else outgoing.device)
            _under_way(dist.isend(byte, outgoing.peer, group=outgoing.group)).wait()
        else:
            byte = torch.zeros(1, dtype=torch.uint8, device="cpu" if incoming.is_staged else incoming.device)
            _under_way(dist.irecv(byte, incoming.peer, group=incoming.group)).wait()


def _under_way(work: Work | None) -> Work:
    """torch has no handle for a process that is not of the group; both ends of a channel are."""
    assert work is not None
    return work


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
