"""How a process ends: with a sentence and exit status 2 for a user's own mistake, and without delay."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ds_bert.terminal import keep_printing

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

    `ds_bert.training.run.failing_by_name` has printed it, with the rank, when it comes here.
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
        print(f"error: {error}", file=sys.stderr, flush=True)
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
