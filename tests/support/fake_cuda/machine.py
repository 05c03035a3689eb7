"""Playing the programs of all ranks together, as their GPUs and NCCL would, to see whether they come to an end.

Nothing has a duration here: whatever can happen, happens, and if in the end something still waits, it waits for ever.
The rules are NCCL's and CUDA's at their strictest: a message is done when both ends have come to it, however small it
is; and a communicator's first use lets the host wait until all members use it.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from typing import Any

from tests.support.fake_cuda.program import Op

_BOTH_ALIKE = (["isend", "isend"], ["irecv", "irecv"])  # a message has two ends


class Deadlock(AssertionError):
    """Some ranks wait for ever; the message says where."""


class _Rank:
    """One rank: its host's place in the program, and its device's streams."""

    def __init__(self, number: int, program: Sequence[Op]) -> None:
        self.number, self.program, self.next = number, program, 0
        self.streams: dict[Any, deque[Op]] = defaultdict(deque)
        self.done: set[int] = set()
        self.used: Counter[str] = Counter()  # how often the host has come to a communicator
        self.met: Counter[str] = Counter()  # how often the device has


class Machine:
    """All ranks of a job.

    Args:
        programs: of each rank.
    """

    def __init__(self, programs: Sequence[Sequence[Op]]) -> None:
        self._ranks = [_Rank(number, program) for number, program in enumerate(programs)]
        self._came: dict[tuple[str, int], set[int]] = defaultdict(set)  # hosts, to the nth use of a communicator
        self._ready: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)  # devices, and their roles
        self._told: Counter[str] = Counter()

    def play(self) -> None:
        """Play to the end.

        Raises:
            Deadlock: there is none.
        """
        while any([self._host(rank) | self._device(rank) for rank in self._ranks]):
            pass
        stuck = [rank for rank in self._ranks if rank.next < len(rank.program) or any(rank.streams.values())]
        if stuck:
            raise Deadlock("\n".join(map(_describe, stuck)))

    def _host(self, rank: _Rank) -> bool:
        """Let a host go on as far as it can; return whether it did."""
        begin = rank.next
        while rank.next < len(rank.program) and self._can_do(rank, rank.program[rank.next]):
            rank.next += 1
        return rank.next > begin

    def _can_do(self, rank: _Rank, op: Op) -> bool:
        if op.kind == "await":
            return op.mark in rank.done
        if op.kind == "await all":
            return not any(rank.streams.values())
        if op.kind in ("mark", "follow"):
            rank.streams[op.stream].append(op)
        elif op.kind == "meet":
            if rank.used[op.communicator] == 0 and not self._all_came(rank, op):
                return False
            rank.used[op.communicator] += 1
            before = -op.mark - 1  # a mark of its own, of what the stream holds so far
            rank.streams[op.stream].append(Op("mark", op.at, mark=before))
            rank.streams[op.communicator] += [Op("follow", op.at, mark=before), op, Op("mark", op.at, mark=op.mark)]
        elif op.kind == "gather":
            if not self._all_came(rank, op):
                return False
            rank.used[op.communicator] += 1
        elif op.kind == "tell":
            self._told[op.communicator] += 1
        elif op.kind == "hear":
            if rank.used[op.communicator] >= self._told[op.communicator]:
                return False
            rank.used[op.communicator] += 1
        return True

    def _all_came(self, rank: _Rank, op: Op) -> bool:
        came = self._came[op.communicator, rank.used[op.communicator]]
        came.add(rank.number)
        return came >= set(op.members)

    def _device(self, rank: _Rank) -> bool:
        """Let a device go on as far as it can; return whether it did."""
        went_on = False
        for stream in list(rank.streams.values()):
            while stream and self._is_over(rank, stream[0]):
                stream.popleft()
                went_on = True
        return went_on

    def _is_over(self, rank: _Rank, op: Op) -> bool:
        if op.kind == "mark":
            rank.done.add(op.mark)
        elif op.kind == "follow":
            return op.mark in rank.done
        elif op.kind == "meet":
            ready = self._ready[op.communicator, rank.met[op.communicator]]
            ready[rank.number] = op.role
            if not ready.keys() >= set(op.members) or list(ready.values()) in _BOTH_ALIKE:
                return False
            rank.met[op.communicator] += 1
        return True


def _describe(rank: _Rank) -> str:
    lines = [f"rank {rank.number}:"]
    if rank.next < len(rank.program):
        op = rank.program[rank.next]
        lines.append(f"its host waits at {op.at} ({op.kind} {op.communicator})")
    for name, stream in rank.streams.items():
        if stream:
            lines.append(f"stream {name} waits at {stream[0].at} ({stream[0].kind} {stream[0].communicator})")
    return "\n  ".join(lines)
