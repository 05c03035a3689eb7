"""What programs print: it never ends them, has colours on a terminal only, and tables that pipes get line by line."""

import codecs
import errno
import io
import os
import select
import shutil
import sys
from collections.abc import Collection, Sequence
from typing import Any, TextIO

_BOLD, _RED, _YELLOW = "1", "1;31", "1;33"  # in the control sequences of terminals
_ANY_WIDTH = 1_000_000


def warn(text: str) -> None:
    """Print a warning on stderr."""
    print(f"{_styled('warning:', _YELLOW, sys.stderr)} {text}", file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """Print an error on stderr."""
    print(f"{_styled('error:', _RED, sys.stderr)} {text}", file=sys.stderr, flush=True)


def heading(text: str) -> str:
    """Return what stdout shows of a heading: bold letters where it is a terminal."""
    return _styled(text, _BOLD, sys.stdout)


def fact(label: str, text: str, width: int = 7) -> str:
    """Return a line with a label, whose column with the colon has ``width`` signs at least, and what it is of."""
    label += ":"
    return f"{heading(label)}{' ' * (width - len(label))} {text}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], texts: Collection[str]) -> str:
    """Return a table for stdout, with two blanks between its columns.

    A narrow terminal gets long texts broken into lines; anything else gets a line for each row, however long.

    Args:
        titles: of the columns.
        rows: a cell for each column.
        texts: titles of those that hold text, which begins at the left; the others hold numbers.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=False, header_style="bold")
    for title, *cells in zip(titles, *rows, strict=True):
        if title in texts:
            grid.add_column(Text(title), overflow="fold")
        else:
            grid.add_column(Text(title), justify="right", no_wrap=True, min_width=max(map(len, (title, *cells))))
    for row in rows:
        grid.add_row(*map(Text, row))
    colours: Any = "standard" if has_colours(sys.stdout) else None
    console = Console(file=io.StringIO(), color_system=colours, force_terminal=True, width=_ANY_WIDTH)
    needed = console.measure(grid)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _ANY_WIDTH
    with console.capture() as capture:
        console.print(grid, width=max(width, needed.minimum))
    return "\n".join(map(str.rstrip, capture.get().splitlines()))


def has_colours(stream: TextIO) -> bool:
    """Whether what is printed there may have colours: a terminal that knows them, unless the user said otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM", "dumb") != "dumb")


def _styled(text: str, style: str, stream: TextIO) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if has_colours(stream) else text


# How the signs that our programs print look where an encoding lacks them; all others are shown as in "\u6f22".
_PLAIN = {
    **{"…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "±": "+/-", "→": "->", "·": "*", "²": "^2"},
    **{"‘": "'", "’": "'", "“": '"', "”": '"', "│": "|", "┤": "|", "└": "+", "─": "-", "●": "*"},
}
_ERRORS = "ds_bert.plain"


def keep_printing() -> None:
    """Make sure that nothing printed from here on can end this process.

    Signs that the encoding of stdout and stderr lacks are replaced. What cannot be written, because a pipe's reader has
    gone (``| head``), the terminal was closed or a disk is full, is dropped; so is all that is printed after it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # stdin, stdout or stderr was closed, and the next file to be opened would have taken its place
    os.close(descriptor)
    sys.stderr = _kept(sys.stderr, 2)
    sys.stdout = _kept(sys.stdout, 1)


def _kept(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a stream to the same place; one that was put in place of the process's own, as tests do, stays."""
    if stream is None:  # closed when Python started
        return open(os.devnull, "w", errors=_ERRORS)
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.FileIO) or raw.fileno() != descriptor:
        return stream
    sink = _Sink(descriptor)
    try:
        stream.flush()
    except OSError as error:
        sink.drop(error)
    kind = _WholeLines if stream.line_buffering or stream.write_through else io.TextIOWrapper
    return kind(io.BufferedWriter(sink), encoding=stream.encoding, errors=_ERRORS)


class _WholeLines(io.TextIOWrapper):
    """Text that leaves when a line ends, or when it is flushed, in one write.

    Launchers start ranks with ``python -u``, where `print` writes a text and the end of its line apart; all ranks share
    a pipe, and what another rank writes could come between the two: "error: rank 1 …error: rank 0 …".
    """

    def write(self, text: str) -> int:
        written = super().write(text)
        if text.endswith(("\n", "\r")):  # a bar ends by going back to where it began
            self.flush()
        return written


class _Sink(io.RawIOBase):
    """A file descriptor that takes all bytes: when it cannot be written, it leads to /dev/null from then on."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.name = f"<descriptor {descriptor}>"
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data) -> int:  # type: ignore[no-untyped-def, override]
        left = memoryview(data).cast("B")
        size = len(left)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # a pipe that does not wait, and is full
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.drop(error)
        return size

    def drop(self, reason: OSError) -> None:
        """Lead the descriptor to /dev/null: child processes and libraries in C write there, too."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._descriptor)
        os.close(null)
        if self._descriptor == 1 and reason.errno != errno.EPIPE:  # a reader that has gone wants no more
            warn(f"stdout cannot be written ({reason.strerror}); what is printed from here on is lost")


def _encodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs), error.end


codecs.register_error(_ERRORS, _encodable)
