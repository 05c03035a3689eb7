"""Who of a job's processes is still there: what a collective that fails, or never ends, cannot say.

Every process counts its beats and steps in a store beside the groups. The launcher's first rank looks at all counters,
the others at its one, so that traffic grows with the number of processes, not with its square. Each also says there at
which line its own work is: if one that is waited for in vain still has a beat, it hangs there. Who first knows why the
job must end writes it down there, and all end for the same reason.
"""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from threading import Event, Thread, get_ident

import psutil
import torch.distributed as dist

from ds_bert.engine.meeting import connect
from ds_bert.engine.occupation import occupation, was_waiting
from ds_bert.engine.process_group import Grid

INTERVAL = 1.0  # seconds between two beats
_GRACE = 5  # intervals of silence that tell a dead process from a live one, after a failure
_BEAT = 2**32  # a counter is beats x _BEAT + steps done
_NUMBERS = count()  # every process makes the same heartbeats one after the other; each has keys of its own
_ELSEWHERE, _ENDED = "elsewhere", "ended"
_LAST = 5.0  # seconds that the process which serves the store stays for those that still leave


class Heartbeat:
    """Tells the others that this process lives; ends it when one of them has been silent for the grid's timeout.

    It is to be made by the thread that works: that one's occupation is told.

    Args:
        grid: this process's place; alone in the world, it needs no heartbeat.
        steps_done: says how many optimizer steps this process has done.
    """

    def __init__(self, grid: Grid, steps_done: Callable[[], int]) -> None:
        self._grid, self._steps_done, self._worker = grid, steps_done, get_ident()
        self._interval = min(INTERVAL, grid.timeout_seconds / 8)
        self._first = grid.stage_map.grid_rank(0)
        self._others = [rank for rank in range(grid.world_size) if rank != grid.rank]
        self._watched = self._others if grid.rank == self._first else [self._first]
        self._heard = {rank: (0, time.monotonic()) for rank in self._others}
        self._processes: dict[int, str] = {}
        self._dead: list[int] = []
        self._steps_told, self._explains, self._verdict = 0, False, ""
        self._stopped, self._answered = Event(), Event()
        if self._others:
            self._store = _connect(grid.timeout_seconds)
            self._store.set(f"process/{grid.rank}", f"{socket.gethostname()} {os.getppid()} {os.getpid()}")
            for work in (self._beat, self._guard):
                Thread(target=work, daemon=True).start()

    def cause_of(self, error: Exception) -> str:
        """Say why this process failed, and tell the others: who died or hangs, who failed first, or the error."""
        if not self._others:
            return str(error)
        begin = time.monotonic()
        unwatched = [rank for rank in self._others if rank not in self._watched]
        self._heard |= {rank: (self._heard[rank][0], begin) for rank in unwatched}
        self._explains, self._watched = True, self._others
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher that saw a rank die ends the others at once
        dead: list[int] = []
        # A beat from before the failure may be read an interval after it.
        while not (dead or self._verdict or self._heard_all(begin + 1.5 * self._interval)):
            time.sleep(self._interval / 10)
            silent = self._silent(time.monotonic() - _GRACE * self._interval)
            dead = silent or [rank for rank in self._others if self._has_ended(rank)]
            if silent:  # those that died with them were heard up to an interval later
                time.sleep(1.5 * self._interval)
                dead = self._silent(time.monotonic() - _GRACE * self._interval)
        if self._first in dead:
            dead = [self._first]  # without the store that it serves, nothing is known of the others
        self._dead = dead
        reason = f"{self._describe(dead)} died or hangs" if dead else ""
        if not (dead or self._verdict) and was_waiting(error):
            reason = self._hanging()
        reason = reason or f"{self._grid} failed: {error}"
        cause = self._verdict or self._announce(reason)
        if cause == reason:
            self._kill(dead)
        self._linger()
        return str(error) if str(error) in cause else f"{cause} ({error})"

    def stop(self) -> None:
        """Leave without alarming the others; the process that serves the store stays until they have left, too."""
        if not self._others or self._stopped.is_set():
            return
        self._stopped.set()
        deadline = time.monotonic() + _LAST
        with contextlib.suppress(RuntimeError):
            left, living = self._store.add("left", 1), self._grid.world_size - len(self._dead)
            while self._grid.rank == self._first and left < living and time.monotonic() < deadline:
                time.sleep(0.01)
                left = self._store.add("left", 0)

    def _beat(self) -> None:
        try:
            self._exchange()
            while not self._stopped.wait(self._interval):
                self._exchange()
        except RuntimeError:
            if not self._stopped.is_set():
                self._end(f"{self._describe([self._first])} died")

    def _exchange(self) -> None:
        """Count a beat, look at the others' counters, and end if one stands still or if there is a verdict."""
        steps, now = self._steps_done(), time.monotonic()
        self._store.set(f"occupation/{self._grid.rank}", occupation(self._worker))
        self._store.add(f"beats/{self._grid.rank}", _BEAT + steps - self._steps_told)
        self._steps_told = steps
        for rank in self._watched:
            beats = self._store.add(f"beats/{rank}", 0)
            if beats != self._heard[rank][0]:
                self._heard[rank] = beats, now
                if rank not in self._processes:
                    self._processes[rank] = self._store.get(f"process/{rank}").decode()
        self._answered.set()
        late = self._silent(now - self._grid.timeout_seconds)
        if self._store.check(["verdict"]):
            self._end(self._store.get("verdict").decode())
        elif late and not self._explains:
            late = self._silent(now - self._grid.timeout_seconds + 2 * self._interval)
            self._end(self._announce(self._overdue(late)), late)

    def _guard(self) -> None:
        """End this process when the store does not answer: `_exchange` would wait for it for ever."""
        while self._answered.wait(self._grid.timeout_seconds):
            self._answered.clear()
        if not self._stopped.is_set():
            self._end(self._overdue([self._first]), [self._first])

    def _heard_all(self, since: float) -> bool:
        return time.monotonic() > since and not self._silent(since)

    def _silent(self, since: float) -> list[int]:
        """Those watched of which nothing was heard since that time."""
        return [rank for rank in self._watched if self._heard[rank][1] < since]

    def _overdue(self, ranks: Sequence[int]) -> str:
        return f"{self._describe(ranks)} has not answered for {self._grid.timeout_seconds:g} s"

    def _describe(self, ranks: Sequence[int]) -> str:
        return " and ".join(
            f"{self._grid.describe(rank)}{self._elsewhere(rank)}, after step {self._heard[rank][0] % _BEAT},"
            for rank in ranks
        )

    def _hanging(self) -> str:
        """Name those that have a beat but do not wait for peers, as all others do by now; "" if there are none."""
        with contextlib.suppress(RuntimeError):
            found = {rank: self._store.get(f"occupation/{rank}").decode() for rank in self._others}
            return " and ".join(f"{self._describe([rank])} hangs in {line}" for rank, line in found.items() if line)
        return ""

    def _elsewhere(self, rank: int) -> str:
        """Name the machine of that rank if it is not this one."""
        host = self._processes.get(rank, "").partition(" ")[0]
        return f" on {host}" if host not in ("", socket.gethostname()) else ""

    def _announce(self, reason: str) -> str:
        """Write down why the job ends, unless another has; return what stands there."""
        with contextlib.suppress(RuntimeError):
            reason = self._store.compare_set("verdict", "", reason).decode()
        return reason

    def _linger(self) -> None:
        """Let the process that serves the store stay until the others have read the verdict."""
        if self._grid.rank == self._first:
            time.sleep(2 * self._interval)

    def _end(self, reason: str, hung: Sequence[int] = ()) -> None:
        """End this process at once, and those hung; while the main thread explains a failure, leave it to that."""
        self._kill(hung)
        if self._explains:
            self._verdict = self._verdict or reason
            return
        print(f"error: {self._grid}: after step {self._steps_done()}: {reason}", file=sys.stderr, flush=True)
        self._linger()
        os._exit(1)

    def _kill(self, ranks: Sequence[int]) -> None:
        """End hung processes of this one's launcher, which would itself take half a minute for it."""
        for rank in ranks:
            sibling = self._sibling(rank)
            if isinstance(sibling, psutil.Process):
                with contextlib.suppress(psutil.Error):
                    sibling.kill()

    def _has_ended(self, rank: int) -> bool:
        """Whether a process of this one's launcher is known to have ended, by its own or another's doing."""
        return self._sibling(rank) == _ENDED

    def _sibling(self, rank: int) -> psutil.Process | str:
        """The process of that rank, if this one's launcher started it on this machine; `_ENDED` if it has ended."""
        host, parent, pid = self._processes.get(rank, "- 0 0").split()
        if (host, parent) != (socket.gethostname(), str(os.getppid())):
            return _ELSEWHERE
        try:
            process = psutil.Process(int(pid))
            is_it = process.ppid() == os.getppid() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return _ENDED
        return process if is_it else _ENDED


def _connect(timeout_seconds: float) -> dist.Store:
    """Become a client of the store that the groups were made with, under keys of this heartbeat's own."""
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # after which torchrun's store is still the same
    return dist.PrefixStore(f"heartbeat/{restarts}/{next(_NUMBERS)}", connect(timeout_seconds))
