"""Messages between the processes that watch over a job: JSON objects, a line each, over a socket."""

import json
import select
import socket
from threading import Lock
from typing import Any

_LONGEST = 2**16  # bytes of a message


class Wire:
    """A socket for messages, each a mapping; several threads may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._rest, self._lock = connection, b"", Lock()
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        """Send a message.

        Raises:
            OSError: the other side is gone.
        """
        with self._lock:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    @property
    def pending(self) -> bool:
        """Whether a message has come that was not handed out."""
        return b"\n" in self._rest

    def receive(self, seconds: float | None = None) -> list[dict[str, Any]]:
        """Wait for that long (None: for ever) and return the messages that have come.

        Raises:
            EOFError: the other side has closed, or is gone, or says what is no message.
        """
        if select_ready([self], seconds):
            self._read()
        *lines, self._rest = self._rest.split(b"\n")
        return [_parse(line) for line in lines]

    def await_message(self) -> dict[str, Any]:
        """Wait for the next message, and leave those after it.

        Raises:
            EOFError: as in `receive`.
        """
        while not self.pending:
            self._read()
        line, _, self._rest = self._rest.partition(b"\n")
        return _parse(line)

    def _read(self) -> None:
        if self.pending:
            return
        try:
            data = self._socket.recv(_LONGEST)
        except OSError:
            data = b""
        self._rest += data
        if not data or (len(self._rest) > _LONGEST and not self.pending):
            raise EOFError

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        raise EOFError from None
    if not isinstance(message, dict):
        raise EOFError
    return message


def select_ready(wires: list[Any], seconds: float | None) -> list[Any]:
    """Those of the wires (or sockets) that have something to be read, after that time at most."""
    if pending := [wire for wire in wires if isinstance(wire, Wire) and wire.pending]:
        return pending
    poll, by_number = select.poll(), {wire.fileno(): wire for wire in wires}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(None if seconds is None else max(0, int(1000 * seconds)))]
