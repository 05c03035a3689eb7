"""Programs on a terminal of their own, as a person sees them."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

COLOURS = ("NO_COLOR", "FORCE_COLOR", "TERM")
BOLD, RED, YELLOW = "\x1b[1m", "\x1b[1;31m", "\x1b[1;33m"


def on_terminal(
    command: Sequence[object], columns: int = 100, timeout: float = 60, cwd: Path | None = None, **environment: str
) -> tuple[int, str]:
    """Run a command whose stdin, stdout and stderr are a terminal; return its status and what it wrote there.

    Args:
        command: its words.
        columns: of the terminal.
        timeout: seconds until it is killed.
        cwd: where it runs.
        environment: what is other than here; of what says something of colours, only TERM is set if it is not given.
    """
    written = b""
    with _started(command, columns, cwd, {"TERM": "xterm", **environment}) as (started, keyboard):
        while part := _read(keyboard):
            written += part
        return started.wait(timeout), written.decode().replace("\r\n", "\n")


@contextmanager
def _started(
    command: Sequence[object], columns: int, cwd: Path | None, environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen, int]]:
    """Start a command on a terminal; give it, and the descriptor of the terminal's other end."""
    keyboard, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 200, columns, 0, 0))
    started = subprocess.Popen(
        list(map(str, command)),
        stdin=screen,
        stdout=screen,
        stderr=screen,
        cwd=cwd,
        env={**plain_environment(), **environment},
        start_new_session=True,
    )
    os.close(screen)
    try:
        yield started, keyboard
    finally:
        started.kill()
        started.wait()
        os.close(keyboard)


def converse(command: Sequence[object], exchanges: Sequence[tuple[str, str]], cwd: Path) -> str:
    """Talk with a program on a terminal; return what it shows after the last that is typed, as words.

    Args:
        command: its words.
        exchanges: what is typed, and what is waited for to be shown then, a regular expression.
        cwd: where it runs.
    """
    with _started(command, 200, cwd, {"TERM": "vt100"}) as (_, keyboard):
        for text, awaited in exchanges:
            os.write(keyboard, text.encode())
            shown = b""
            while not re.search(awaited.encode(), shown, re.DOTALL):
                assert select.select([keyboard], [], [], 30)[0], shown
                shown += _read(keyboard)
    colourless = re.sub(r"\x1b\[[\d;]*m|\x00", "", shown.decode())
    return re.sub(r"\x1b\[[\d;]*[A-Za-z]", " ", colourless)


def plain_environment() -> Mapping[str, str]:
    """This process's environment without what says something of colours or of the terminal's size."""
    return {name: value for name, value in os.environ.items() if name not in (*COLOURS, "COLUMNS", "LINES")}


def _read(keyboard: int) -> bytes:
    try:
        return os.read(keyboard, 65536)
    except OSError:  # Linux's way to say that nobody holds the other end
        return b""
