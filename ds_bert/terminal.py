"""What a program prints is shown as far as that is possible; where it is not, the program goes on all the same."""

import codecs
import errno
import io
import os
import select
import sys
from typing import TextIO

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
    return io.TextIOWrapper(
        sink if buffer is raw else io.BufferedWriter(sink),  # type: ignore[arg-type]  # raw with `python -u`
        encoding=stream.encoding,
        errors=_ERRORS,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


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
            warning = f"warning: stdout cannot be written ({reason.strerror}); what is printed from here on is lost"
            print(warning, file=sys.stderr, flush=True)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs), error.end


codecs.register_error(_ERRORS, _plain)
