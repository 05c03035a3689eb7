"""What one rank asks of its device and of the other ranks, in order: the program that `machine` plays with theirs.

Kernels that only compute are left out: they end by themselves.
"""

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from tests.support.fake_cuda.recording import place


class Op(NamedTuple):
    """One thing that a rank's host does.

    Args:
        kind: "mark" puts a mark into a stream; "follow" lets a stream wait for a mark; "await" lets the host wait for
            one, "await all" for everything; "meet" queues what happens once all members have queued theirs, after what
            ``stream`` holds, on a stream of the communicator's own, and puts a mark behind it; "gather" lets the host
            wait until all members have come; "tell" says something to those that "hear", who wait for it.
        at: file and line.
        stream: of the device.
        mark: number of the mark.
        communicator, members: who meet.
        role: which end of a message this is, "isend" or "irecv"; "" in a collective.
    """

    kind: str
    at: str
    stream: int = 0
    mark: int = 0
    communicator: str = ""
    members: tuple[int, ...] = ()
    role: str = ""


class Program:
    """Records the operations of this process."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._marks = count()

    def mark(self, stream: int) -> int:
        """Put a mark into a stream."""
        mark = next(self._marks)
        self.ops.append(Op("mark", place(), stream, mark))
        return mark

    def follow(self, stream: int, mark: int | None) -> None:
        """Let a stream wait for a mark; an event that was never recorded has none."""
        if mark is not None:
            self.ops.append(Op("follow", place(), stream, mark))

    def wait(self, mark: int | None) -> None:
        """Let the host wait for a mark."""
        if mark is not None:
            self.ops.append(Op("await", place(), mark=mark))

    def wait_for_all(self) -> None:
        """Let the host wait for the device."""
        self.ops.append(Op("await all", place()))

    def meet(self, communicator: str, members: Sequence[int], stream: int, role: str = "") -> int:
        """Queue a message or a collective; return the mark behind it."""
        mark = next(self._marks)
        self.ops.append(Op("meet", place(), stream, mark, communicator, tuple(members), role))
        return mark

    def on_host(self, kind: str, communicator: str, members: Sequence[int]) -> None:
        """Do something with other processes' hosts: "gather", "tell" or "hear"."""
        self.ops.append(Op(kind, place(), communicator=communicator, members=tuple(members)))


PROGRAM = Program()
"""Of this process."""
