"""Programs on a terminal of their own, as a person sees them."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
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
    keyboard, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    started = subprocess.Popen(
        list(map(str, command)),
        stdin=screen,
        stdout=screen,
        stderr=screen,
        cwd=cwd,
        env={**plain_environment(), "TERM": "xterm", **environment},
        start_new_session=True,
    )
    os.close(screen)
    written = b""
    try:
        while part := _read(keyboard):
            written += part
        return started.wait(timeout), written.decode().replace("\r\n", "\n")
    finally:
        started.kill()
        os.close(keyboard)


def plain_environment() -> Mapping[str, str]:
    """This process's environment without what says something of colours or of the terminal's size."""
    return {name: value for name, value in os.environ.items() if name not in (*COLOURS, "COLUMNS", "LINES")}


def _read(keyboard: int) -> bytes:
    try:
        return os.read(keyboard, 65536)
    except OSError:  # Linux's way to say that nobody holds the other end
        return b""
