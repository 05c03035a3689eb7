"""The process beside each rank that says whether the rank lives: it goes on where the rank's own threads cannot.

A rank's threads stand still while it is stopped, and while one of them keeps Python's lock in a long call. From outside
the two look different. So each rank starts a small process, its watcher, which loads nothing of torch and talks to it
by a socket; all watchers talk to the hub, a thread of the first rank's watcher, by one TCP connection each.
Messages are lines of JSON. The hub keeps the roll, decides, and tells all.
"""

import contextlib
import hmac
import os
import secrets
import signal
import socket
import time
from collections.abc import Mapping
from threading import Thread
from typing import Any

import psutil

from ds_bert.engine.roll import Member, Roll, Verdict, describe
from ds_bert.engine.wire import Wire, select_ready
from ds_bert.terminal import complain

_UNHEARD = 5.0  # seconds that a rank has to say that it heard the verdict
_PATIENCE = 15.0  # seconds that it has, after the verdict, to end by itself
_TICKS = 8  # per interval, of the hub's and the watchers' looking around


class Hub(Thread):
    """Keeps the roll of all processes, and tells their watchers once the job must end.

    Args:
        roll: of the processes.
        first: rank of the process beside which it runs.
        interval: seconds between two signs of life.
    """

    def __init__(self, roll: Roll, first: int, interval: float) -> None:
        super().__init__(daemon=True)
        self.token = secrets.token_hex(16)  # what tells a watcher from a stranger that found the port
        self._roll, self._first, self._interval = roll, first, interval
        self._listener = _listen()
        self.port = self._listener.getsockname()[1]
        self._strangers: list[Wire] = []
        self._wires: dict[Wire, int] = {}
        self._verdict: Verdict | None = None

    def run(self) -> None:
        """Listen, until all have left or the job has ended."""
        pause, last, beat_at, end = self._interval / _TICKS, time.monotonic(), 0.0, float("inf")
        told = 0  # steps of the first rank, which the others name where they decide alone
        while not self._is_done() and time.monotonic() < end:
            ready = select_ready([self._listener, *self._strangers, *self._wires], pause)
            now = time.monotonic()
            if now - last > self._interval:  # stopped, or without a processor
                self._roll.forgive(now - last)
            last = now
            for source in ready:
                self._hear(source, now)
            if self._verdict is None and (found := self._roll.verdict(now)):
                self._verdict, end = found, now + _PATIENCE + _UNHEARD
                self._tell_all(verdict=found.text, failed=found.failed)
            if now >= beat_at or told != self._roll.members[self._first].steps:
                told = self._roll.members[self._first].steps
                self._tell_all(steps=told)
                beat_at = now + self._interval

    def _is_done(self) -> bool:
        """Whether there is nobody left to tell: all have gone, or the job ends and the rest is silent."""
        if self._verdict is None:
            return self._roll.all_gone and not self._wires
        return all(self._roll.is_silent(rank, time.monotonic()) for rank in self._wires.values())

    def _hear(self, source: Any, now: float) -> None:
        if source is self._listener:
            with contextlib.suppress(OSError):
                connection = self._listener.accept()[0]
                connection.settimeout(self._interval)  # one who reads nothing delays nobody for longer
                self._strangers.append(Wire(connection))
            return
        try:
            for message in source.receive(0):
                self._take(source, message, now)
        except EOFError:
            self._lose(source, now)

    def _take(self, source: Wire, message: Mapping[str, Any], now: float) -> None:
        if source in self._strangers:
            if not hmac.compare_digest(str(message.get("token")).encode(), self.token.encode()):
                raise EOFError
            self._strangers.remove(source)
            self._wires[source] = message["rank"]
            if self._verdict:
                self._tell(source, verdict=self._verdict.text, failed=self._verdict.failed)
        member = self._roll.members[self._wires[source]]
        member.heard, member.known = now, True
        update(member, message, now)
        if "left" in message:
            if self._wires[source] == self._first:
                self._tell_all(first_left=True)
            self._tell(source, farewell=True)

    def _lose(self, source: Wire, now: float) -> None:
        """Take one whose connection ended without a farewell for dead: its kernel has closed it."""
        source.close()
        if source in self._strangers:
            self._strangers.remove(source)
        elif (member := self._roll.members[self._wires.pop(source)]).left is None:
            member.died = member.died or now

    def _tell_all(self, **message: Any) -> None:
        for wire in list(self._wires):
            self._tell(wire, **message)

    def _tell(self, wire: Wire, **message: Any) -> None:
        with contextlib.suppress(OSError):  # its end will be read
            wire.send(**message)


def update(member: Member, message: Mapping[str, Any], now: float) -> None:
    """Enter what a watcher says of its rank."""
    member.host = message.get("host", member.host)
    member.steps, member.at = message.get("steps", member.steps), message.get("at", member.at)
    member.busy = (member.busy or now) if member.at else None
    if "quiet" in message:
        member.spoke = now - message["quiet"]
        member.stopped = None if message["stopped"] is None else now - message["stopped"]
    if "failure" in message and member.failed is None:
        member.failed, member.failure, member.waited = now, message["failure"], message["waited"]
    if "left" in message and member.left is None:
        member.left, member.refusal = now, message["left"]
    if "died" in message and member.died is None:
        member.died = now


class Watcher:
    """Watches one rank: tells the hub of it, tells it the verdict, and sees to it that it ends then.

    Args:
        rank: the wire to the process.
        hub: the wire to the hub.
        setup: what the process said at the start.
    """

    def __init__(self, rank: Wire, hub: Wire, setup: Mapping[str, Any]) -> None:
        self._rank, self._hub, self._setup = rank, hub, setup
        self._process = psutil.Process(setup["pid"])
        self._interval: float = setup["interval"]
        now = time.monotonic()
        self._me = Member(setup["names"][setup["rank"]], now, now)
        self._first = Member(setup["names"][setup["first"]], now, now, setup["hub"]["host"])
        self._verdict, self._told, self._is_ending = "", 0.0, False
        self._has_hub = True

    def run(self) -> None:
        """Watch until the rank has left or ended."""
        last = beat_at = time.monotonic()
        while not self._has_ended():
            wires = [self._rank, *([self._hub] if self._has_hub else [])]
            ready = select_ready(wires, self._interval / _TICKS)
            now = time.monotonic()
            if now - last > self._interval:
                self._first.heard += now - last
            last = now
            if self._rank in ready and not self._hear_rank(now):
                break
            if self._hub in ready:
                self._hear_hub(now)
            if now >= beat_at:
                self._report(now)
                beat_at = now + self._interval
            self._look_after(now)
        self._take_leave()

    def _hear_rank(self, now: float) -> bool:
        """Hand on what the rank says; return whether there is more to come."""
        try:
            messages = self._rank.receive(0)
        except EOFError:
            return False
        for message in messages:
            self._me.spoke = now
            self._is_ending = self._is_ending or "ending" in message
            update(self._me, message, now)
            self._tell_hub(**message)
        return self._me.left is None

    def _hear_hub(self, now: float) -> None:
        try:
            messages = self._hub.receive(0)
        except EOFError:
            self._has_hub = False
            if self._first.left is None:
                self._decide(Verdict(f"{describe(self._first, socket.gethostname())} died"), now)
            return
        self._first.heard = now
        for message in messages:
            update(self._first, message, now)
            if "first_left" in message:
                self._first.left = now
            elif "verdict" in message:
                self._decide(Verdict(message["verdict"], message["failed"]), now)

    def _report(self, now: float) -> None:
        try:
            is_stopped = self._process.status() == psutil.STATUS_STOPPED
        except psutil.Error:
            is_stopped = False
        self._me.stopped = (self._me.stopped or now) if is_stopped else None
        stopped = None if self._me.stopped is None else now - self._me.stopped
        self._tell_hub(quiet=now - self._me.spoke, stopped=stopped)

    def _look_after(self, now: float) -> None:
        """Decide alone where the hub is silent, and end a rank that does not end by itself."""
        if self._has_hub and self._first.left is None and now > self._first.heard + self._setup["silence"]:
            who = describe(self._first, socket.gethostname())
            self._decide(Verdict(f"{who} has not answered for {self._setup['silence']:g} s"), now)
        if not self._verdict:
            return
        patience = _PATIENCE if self._is_ending else _UNHEARD
        if self._me.stopped is not None or now > self._told + patience:
            with contextlib.suppress(psutil.Error):
                self._process.kill()
            if not self._is_ending:
                self._is_ending = True
                complain(f"{self._me.name}: after step {self._me.steps}: {self._verdict}")

    def _decide(self, verdict: Verdict, now: float) -> None:
        if self._verdict:
            return
        self._verdict, self._told = verdict.text, now
        with contextlib.suppress(OSError):
            self._rank.send(verdict=verdict.text, failed=verdict.failed)

    def _has_ended(self) -> bool:
        """Whether the rank is gone: it is this process's parent, whatever else has inherited its sockets."""
        return os.getppid() != self._setup["pid"]

    def _take_leave(self) -> None:
        """Let the hub know how the rank ended; wait until it does."""
        while self._me.left is None and select_ready([self._rank], 0) and self._hear_rank(time.monotonic()):
            pass
        if self._me.left is None:
            self._tell_hub(died=True)
        if self._has_hub and self._me.left is not None:
            deadline = time.monotonic() + _UNHEARD
            with contextlib.suppress(EOFError):
                while time.monotonic() < deadline:
                    if any("farewell" in message for message in self._hub.receive(self._interval)):
                        break
        self._hub.close()

    def _tell_hub(self, **message: Any) -> None:
        if self._has_hub:
            with contextlib.suppress(OSError):  # its end will be read
                self._hub.send(**message)


def watch() -> None:
    """Run as the watcher of the parent process, which holds the other end of standard input."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the rank, which may have a checkpoint to write
        signal.signal(number, signal.SIG_IGN)
    rank, hub = Wire(socket.socket(fileno=0)), None
    with contextlib.suppress(EOFError):
        setup = rank.await_message()
        if setup["hub"] is None:
            limits = setup["silence"], setup["absence"], setup["interval"]
            hub = Hub(Roll(setup["names"], socket.gethostname(), *limits, time.monotonic()), setup["first"], limits[2])
            hub.start()
            rank.send(port=hub.port, token=hub.token, host=socket.gethostname())
            setup["hub"] = {"address": "localhost", "port": hub.port, "token": hub.token, "host": socket.gethostname()}
        if to_hub := _call(rank, setup):
            Watcher(rank, to_hub, setup).run()
    if hub:
        hub.join()


def _call(rank: Wire, setup: Mapping[str, Any]) -> Wire | None:
    """Connect with the hub, or tell the rank why that cannot be."""
    address, port = setup["hub"]["address"], setup["hub"]["port"]
    try:
        wire = Wire(socket.create_connection((address, port), setup["silence"]))
        wire.send(token=setup["hub"]["token"], rank=setup["rank"], host=socket.gethostname())
    except OSError as error:
        first = setup["names"][setup["first"]]
        reason = f"{first} does not answer at port {port} of {address}, where its heartbeat is to be ({error})"
        rank.send(verdict=reason, failed=None)
        return None
    return wire


def _listen() -> socket.socket:
    """Listen on a free port, by IPv4 and, where there is one, IPv6."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # a connection per process of the job
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
    return socket.create_server(("", 0), backlog=4096)
