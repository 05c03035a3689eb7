"""How a process ends: with one sentence and exit status 2 for a user's mistake, by a vote for a signal."""

import contextlib
import difflib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ds_bert.terminal import complain, keep_printing

USER_ERROR_NOTE = "DS_BERT_USER_ERROR_NOTE"  # of the environment; names a file that a user's mistake leaves behind
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class UserError(Exception):
    """A mistake in what the user handed in.

    The message is one sentence that names the file, the line or key, what was found and what is needed.
    """


class StartError(Exception):
    """The processes of a job could not meet, for a reason that may pass: another try may do.

    The message is one sentence that says what was waited for, where, and what to look at.
    """


class JobFailure(RuntimeError):
    """A failure in the midst of a job whose message, one sentence, says all there is to say.

    `ds_bert.training.lifecycle.failing_by_name` has printed it, with the rank, when it comes here.
    """


def exit_on_user_error(job: Callable[[], int | None]) -> int:
    """Run ``job``; return its exit status (None counts as 0), or print a `UserError` (2) or `StartError` (1).

    A `JobFailure` has been printed: it gives 1. Nothing that is printed can end the job; see `keep_printing`.

    Under a launcher every rank meets the same mistake. The first to leave makes the launcher end the others, so all
    ranks but the first of each machine hold back a moment: the sentence is printed once, and a mistake that only one
    rank meets is still printed. Where the environment names a file by `USER_ERROR_NOTE`, a `UserError` makes that
    file: torchrun turns all statuses into 1.
    """
    keep_printing()
    try:
        return _without_access_errors(job) or 0
    except JobFailure:
        return 1
    except (UserError, StartError) as error:
        if isinstance(error, UserError):
            _leave_note()
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if local_rank:
            time.sleep(5)
        complain(str(error))
        return 2 if isinstance(error, UserError) else 1


def _without_access_errors(job: Callable[[], int | None]) -> int | None:
    """Run ``job``; a path that may not be used, or cannot be there, is a user's mistake wherever it turns up."""
    try:
        return job()
    except OSError as error:
        if error.errno in _NO_ACCESS and isinstance(error.filename, str | bytes):
            raise UserError(f"{os.fsdecode(error.filename)}: {error.strerror}") from None
        raise


def _leave_note() -> None:
    """Make the file that a supervisor on this machine looks for; on another its folder does not exist."""
    if path := os.environ.get(USER_ERROR_NOTE):
        with contextlib.suppress(OSError):
            Path(path).touch()


def leave(status: int) -> NoReturn:
    """End this process without taking its groups apart.

    In torch 2.13 that can hang: gloo's thread waits for the interpreter's lock to release a tensor, while the main
    thread holds the lock and waits for gloo's thread.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


_ALIKE = 0.75  # of difflib's ratio, 1 for equal names
_TIE = 0.05
_PREFIX = 3


def meant(found: str, known: Iterable[str]) -> list[str]:
    """Return the known names that ``found`` may stand for, the likeliest first; none if nothing is like it.

    Case, hyphens and underscores do not matter: "max-seq-len" and "maxSeqLength" are near to "max_seq_length".
    """
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(_plain(name), name)
    found = _plain(found)
    if found in names:
        return [names[found]]
    begun = [name for plain, name in names.items() if len(found) >= _PREFIX and plain.startswith(found)]
    if len(begun) == 1:
        return begun
    close = difflib.get_close_matches(found, names, n=3, cutoff=_ALIKE)
    best = [_ratio(found, plain) for plain in close]
    near = [names[plain] for plain, ratio in zip(close, best, strict=True) if ratio > best[0] - _TIE]
    return near or begun[:3]


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return "did you mean a or b?", or "" if nothing is like it."""
    names = meant(found, known)
    return f"did you mean {' or '.join(names)}?" if names else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _ratio(found: str, name: str) -> float:
    return difflib.SequenceMatcher(None, name, found).ratio()


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ONE_PRESS = 2.0  # seconds within which a launcher may hand on the same Ctrl-C again


class StopSignal:
    """Remembers the first SIGINT or SIGTERM; a second SIGINT, seconds later, interrupts at once.

    Only the main thread can take signals: in another one, nothing is remembered.

    A signal may reach one rank only, or each in another step. So ranks vote in every step on the signals they had when
    the step began, and all see the same sums: they end after the same step. If SIGTERM reaches one of four ranks in
    step 7, that one's votes (for SIGINT, for SIGTERM) are (0, 1) in step 8, the others' (0, 0), and all find (0, 1) in
    step 8's result.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        is_main = threading.current_thread() is threading.main_thread()
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS if is_main}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > _ONE_PRESS:
            raise KeyboardInterrupt

    def votes(self) -> list[float]:
        """This process's votes, to be added up over all processes."""
        return [float(self.number == number) for number in _SIGNALS]

    @staticmethod
    def divide(sums: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
        """Divide what was added up of votes and of what was sent behind them."""
        return sums[: len(_SIGNALS)], sums[len(_SIGNALS) :]

    @staticmethod
    def agreed(votes: Sequence[float]) -> int:
        """The signal that the added votes are for, or 0."""
        return next((int(number) for number, vote in zip(_SIGNALS, votes, strict=True) if vote > 0), 0)

    def release(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            # Python does not know a handler that another language has set, nor how to set it again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
