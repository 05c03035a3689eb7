"""Where the processes of a job find each other: a store that the launcher's first rank serves.

Before they meet, each reads its model and data, and that may take one much longer than another. So each says that it is
there from the moment it starts (`come`), and again every second. Thus the meeting tells a rank that is slow, which is
waited for as long as for any peer, from one that has never come or is gone, which ends it after a timeout of its own.

The first rank alone looks at the others' signs, and leaves a verdict in the store: "go", or the sentence that all end
with. So every process reads two keys, however many there are.
"""

import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from threading import Event, Thread

import torch.distributed as dist

from ds_bert.errors import StartError

START_TIMEOUT = 120.0  # seconds, by default, without a sign of life of a process
_PAUSE = 0.05  # seconds between two attempts to connect
_INTERVAL = 1.0  # seconds between two signs of life
_FIRST_NOTE, _NOTES = 5.0, 30.0  # seconds after which people are told who is waited for, and between two such notes
_GO = "go"
_ENDED = "{}: the launcher's first rank has ended; see what it printed"
_NUMBERS = count()  # every process holds the same meetings one after the other; each has keys of its own


def meeting_address() -> tuple[str, int]:
    """Host and port of the store, as the launcher chose them."""
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def connect(timeout_seconds: float) -> dist.Store:
    """Become a client of the store once more, by a connection that nothing else blocks.

    Raises:
        StartError: it is no longer served.
    """
    deadline = time.monotonic() + timeout_seconds
    while (problem := _knock(deadline - time.monotonic())) is not None:
        if time.monotonic() > deadline:
            raise StartError(_no_answer(problem))
        time.sleep(_PAUSE)
    return _client(timeout_seconds)


def come(launcher_rank: int, world_size: int, start_timeout: float = START_TIMEOUT) -> None:
    """Say from now on, beside all that this process does, that it is there; `meet` follows.

    Args:
        launcher_rank, world_size: as the launcher numbers processes.
        start_timeout: seconds without a sign of life after which a process is not waited for any longer.
    """
    global _presence
    if world_size > 1 and _presence is None:
        _presence = _Presence(launcher_rank, world_size, start_timeout)


def meet(
    launcher_rank: int, world_size: int, timeout_seconds: float, start_timeout: float = START_TIMEOUT
) -> dist.Store:
    """Wait until all processes are here; return the store.

    Args:
        launcher_rank, world_size: as the launcher numbers processes.
        timeout_seconds: how long to wait for processes that are there, but not ready.
        start_timeout: see `come`, which this does where it has not been done.

    Raises:
        StartError: the port is in use, or not all have come in time.
    """
    global _presence
    if world_size == 1:
        return dist.TCPStore(*meeting_address(), is_master=True, wait_for_workers=False)
    come(launcher_rank, world_size, start_timeout)
    presence, _presence = _presence, None
    assert presence is not None
    try:
        return presence.meet(timeout_seconds)
    finally:
        presence.over.set()


class _Presence:
    """This process's signs of life, and what it knows of the others'."""

    def __init__(self, rank: int, world_size: int, start_timeout: float) -> None:
        self.rank, self.world_size, self.start_timeout = rank, world_size, start_timeout
        self.prefix = f"meeting/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_NUMBERS)}"
        self.began = time.monotonic()
        self.server: dist.Store | None = None
        self.error: StartError | None = None
        self.connected, self.over = Event(), Event()
        Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        try:
            if self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # else torchrun serves it
                self.server = _serve()
            while _knock(_INTERVAL) is not None:
                if self.over.wait(_PAUSE):
                    return
            line, host = _Line(self.prefix, self.start_timeout), socket.gethostname()
            self.connected.set()
            for sign in count():
                line.set(f"sign/{self.rank}", f"{sign} {host}")
                if self.over.wait(_INTERVAL):
                    return
        except StartError as error:
            self.error = error
            self.connected.set()

    def meet(self, timeout_seconds: float) -> dist.Store:
        """Wait for the others; see `ds_bert.engine.meeting.meet`."""
        deadline, notes = time.monotonic() + timeout_seconds, _Notes()
        self._await_store(deadline, notes)
        line = _Line(self.prefix, self.start_timeout)
        line.set(f"ready/{self.rank}", "")
        verdict = (self._decide if self.rank == 0 else self._learn)(line, deadline, notes)
        if verdict != _GO:
            raise StartError(verdict)
        return self.server or line.store

    def _await_store(self, deadline: float, notes: "_Notes") -> None:
        deadline = min(deadline, max(time.monotonic(), self.began + self.start_timeout))
        while not self.connected.wait(_INTERVAL):
            if time.monotonic() > deadline:
                raise StartError(_no_answer(_knock(_INTERVAL)))
            if os.environ.get("LOCAL_RANK", "0") == "0":
                notes.show(f"waiting for the launcher's first rank, which does not answer at {_place()} yet")
        if self.error:
            raise self.error

    def _decide(self, line: "_Line", deadline: float, notes: "_Notes") -> str:
        """The first rank's part: wait until all are ready, or give up, and tell the others."""
        missing = {rank: _Sign(self.began) for rank in range(1, self.world_size)}
        pauses = _pauses()
        while True:
            missing = {rank: sign for rank, sign in missing.items() if line.get(f"ready/{rank}") is None}
            for rank, sign in missing.items():
                sign.note(line.get(f"sign/{rank}"))
            verdict = self._verdict(missing, deadline) if missing else _GO
            if verdict:
                line.set("verdict", verdict)
                if verdict != _GO:
                    time.sleep(2 * _INTERVAL)  # the store goes with this process: the others read it first
                return verdict
            notes.show(f"waiting for {len(missing)} of {self.world_size} ranks at {_place()}: {_describe(missing)}")
            time.sleep(next(pauses))

    def _verdict(self, missing: dict[int, "_Sign"], deadline: float) -> str | None:
        """The sentence to end with; None while there is hope."""
        silent = {rank: sign for rank, sign in missing.items() if sign.silence > self.start_timeout}
        if silent:
            return (
                f"{_place()}: of {self.world_size} ranks {_describe(silent, self.start_timeout)}, for the "
                f"{self.start_timeout:g} s of --start_timeout; see what they printed, whether their node is up, and "
                "whether it reaches that address and port (--master_addr, --master_port)"
            )
        if time.monotonic() > deadline:
            return (
                f"{_place()}: of {self.world_size} ranks {_describe(missing)}, after the time of --ddp_timeout; "
                "raise it if they need longer"
            )
        return None

    def _learn(self, line: "_Line", deadline: float, notes: "_Notes") -> str:
        """The others' part: wait for the first rank's verdict, as long as that rank lives."""
        first = _Sign(time.monotonic())
        pauses = _pauses()
        while True:
            if verdict := line.get("verdict"):
                return verdict
            first.note(line.get("sign/0"))
            if first.silence > self.start_timeout or time.monotonic() > deadline + 2 * _INTERVAL:
                return f"{_place()}: the launcher's first rank: {_describe({0: first})}; see what it printed"
            time.sleep(next(pauses))


class _Line:
    """A client of the store, and a bare connection beside it.

    By the bare one's end the store's is known: torch's client would find it, too, but print its own stack.

    Args:
        prefix: of this meeting's keys: torchrun keeps one store through all its restarts.
        timeout_seconds: how long to wait for the store.

    Raises:
        StartError: it is no longer served; the methods raise it, too.
    """

    def __init__(self, prefix: str, timeout_seconds: float) -> None:
        try:
            self._bare = socket.create_connection(meeting_address(), timeout_seconds)
            self.store = _client(timeout_seconds)
        except (OSError, dist.DistError):
            raise StartError(_ENDED.format(_place())) from None
        self._keys = dist.PrefixStore(prefix, self.store)

    def get(self, key: str) -> str | None:
        """Read a key; None where nobody has set it yet."""
        self._check()
        return self._keys.get(key).decode() if self._keys.check([key]) else None

    def set(self, key: str, text: str) -> None:
        """Set a key."""
        self._check()
        self._keys.set(key, text)

    def _check(self) -> None:
        if select.select([self._bare], [], [], 0)[0]:
            raise StartError(_ENDED.format(_place()))


@dataclass
class _Sign:
    """A process's last sign of life.

    Args:
        at: when it gave it, or when it was first waited for.
        text: its number and the process's host; "" before the first.
    """

    at: float
    text: str = field(default="")

    def note(self, text: str | None) -> None:
        """Take note of what its key holds now."""
        if text and text != self.text:
            self.at, self.text = time.monotonic(), text

    @property
    def silence(self) -> float:
        """Seconds since."""
        return time.monotonic() - self.at


class _Notes:
    """What people are told while a process waits: a line after some seconds, and then now and again."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _FIRST_NOTE

    def show(self, text: str) -> None:
        """Print, if it is time."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _NOTES
            print(text, file=sys.stderr, flush=True)


def _describe(signs: "dict[int, _Sign]", longest: float = 5 * _INTERVAL) -> str:
    """Say what is known of processes: those that have not come together, the others one by one.

    Args:
        signs: their last ones, by rank.
        longest: seconds between two signs beyond which one is said to be missed.
    """
    absent = [str(rank) for rank, sign in signs.items() if not sign.text]
    parts = [f"{', '.join(absent)} {'has' if len(absent) == 1 else 'have'} not come"] if absent else []
    for rank, sign in signs.items():
        if sign.text:
            host = sign.text.partition(" ")[2]
            state = "gave no further sign of life" if sign.silence > longest else "is still reading its model and data"
            parts.append(f"{rank} on {host} {state}")
    return "; ".join(parts)


def _pauses() -> Iterator[float]:
    """Seconds to wait between two looks: all are here at once, as a rule."""
    pause = _PAUSE
    while True:
        yield pause
        pause = min(_INTERVAL, 1.2 * pause)


def _knock(timeout_seconds: float) -> OSError | None:
    """Try whether the store is served; return what is wrong. Its client would wait up to three timeouts."""
    try:
        socket.create_connection(meeting_address(), max(0.1, timeout_seconds)).close()
    except OSError as error:
        return error
    return None


def _serve() -> dist.Store:
    try:
        return dist.TCPStore(*meeting_address(), is_master=True, wait_for_workers=False)
    except dist.DistError as error:
        if "EADDRINUSE" not in str(error):
            raise StartError(f"{_place()}: cannot be served: {str(error).partition(chr(10))[0]}") from None
        raise StartError(
            f"{_place()}: in use by another job, or what is left of one; end that, or give the launcher another "
            "--master_port"
        ) from None


def _client(timeout_seconds: float) -> dist.Store:
    timeout = timedelta(seconds=timeout_seconds)
    return dist.TCPStore(*meeting_address(), is_master=False, wait_for_workers=False, timeout=timeout)


def _place() -> str:
    host, port = meeting_address()
    return f"port {port} of {host}"


def _no_answer(problem: OSError | None) -> str:
    return (
        f"{_place()}: the launcher's first rank does not answer there ({problem or 'it has just come'}); see whether "
        "it has failed, and whether all nodes reach that address and port (--master_addr, --master_port)"
    )


_presence: _Presence | None = None  # from `come` to `meet`
