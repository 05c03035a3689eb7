"""Keep a launcher's job going: start it again after a crash, hand signals on to all of it, leave nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

from ds_bert.checkpoint.folders import checkpoints
from ds_bert.errors import USER_ERROR_NOTE, UserError
from ds_bert.files import read_json

PATIENCE = 30.0  # seconds that a signalled job has for its checkpoint
_MARK = "DS_BERT_SUPERVISOR"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Done; a user's mistake, which would only be made again; stopped by SIGINT or SIGTERM.
_FINAL = (0, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM)
_LONGEST_PAUSE = 60.0
_TICK = 0.2


class Supervisor:
    """Runs a command until it ends for good.

    Restarts are counted since the last progress: once a run has written a checkpoint, the next crash is a first one.

    Args:
        command: program and arguments of any launcher.
        max_restarts: restarts in a row without a new checkpoint.
        pause: seconds before the first restart in a row; each further one waits twice as long, a minute at most.
        patience: seconds between a signal and the end of all processes.
    """

    def __init__(
        self, command: Sequence[str], max_restarts: int, pause: float = 1.0, patience: float = PATIENCE
    ) -> None:
        self.command, self.max_restarts, self.pause, self.patience = list(command), max_restarts, pause, patience
        self.output_dir = output_dir_of(command)
        self._mark = uuid.uuid4().hex  # in the environment of all processes of the job, whatever sessions they make
        self._signalled_at: float | None = None
        self._process: subprocess.Popen | None = None

    def run(self) -> int:
        """Return the exit status of the last run: 2 for a user's mistake, 128 + the signal where one ended it.

        Raises:
            UserError: the program cannot be started.
        """
        previous = {number: signal.signal(number, self._hand_on) for number in _SIGNALS}
        try:
            return self._run()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _run(self) -> int:
        restarts, known = 0, self._checkpoints()
        while True:
            status = self._run_once()
            if status in _FINAL or self._signalled_at is not None:
                return status
            found = self._checkpoints()
            restarts, known = (0 if found - known else restarts), found
            if restarts == self.max_restarts:
                _say(f"exit status {status}, and {restarts} restarts without a new checkpoint: giving up")
                return status
            pause = min(self.pause * 2**restarts, _LONGEST_PAUSE)
            restarts += 1
            _say(f"exit status {status}; restart {restarts} of {self.max_restarts} with --resume in {pause:g} s")
            if self._pause(pause):
                return status
            self.command = with_resume(self.command)

    def _run_once(self) -> int:
        """Run the command to its end and return its exit status; a launcher may hide that of a user's mistake."""
        with tempfile.TemporaryDirectory(prefix="ds-bert-launch-") as folder:
            note = Path(folder) / "user-error"
            status = self._run_to_the_end({**os.environ, _MARK: self._mark, USER_ERROR_NOTE: str(note)})
            return 2 if note.exists() and status not in _FINAL else status

    def _run_to_the_end(self, environment: Mapping[str, str]) -> int:
        """Run the command and return the launcher's exit status; none of its processes is left then."""
        try:
            self._process = subprocess.Popen(self.command, env=environment, start_new_session=True)
        except OSError as error:
            raise UserError(f"{self.command[0]}: cannot be started: {error.strerror}; needed is a launcher") from None
        if self._signalled_at is not None:  # while it was being started
            self._hand_on(signal.SIGTERM, None)
        while self._process.poll() is None and not self._patience_is_over():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_TICK)
        self._end_all()
        status = self._process.wait()
        return status if status >= 0 else 128 - status

    def _end_all(self) -> None:
        """Wait for the processes that outlive the launcher; ask those of a crashed job to end, kill what remains."""
        deadline = self._signalled_at
        if deadline is None:
            for process in self._processes():
                with contextlib.suppress(psutil.Error):
                    process.terminate()
            deadline = time.monotonic()
        while (left := self._processes()) and time.monotonic() < deadline + self.patience:
            time.sleep(_TICK)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)

    def _processes(self) -> list[psutil.Process]:
        """The job's processes on this machine that have not ended."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark:
                    found.append(process)
        return found

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self._signalled_at = self._signalled_at or time.monotonic()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _patience_is_over(self) -> bool:
        return self._signalled_at is not None and time.monotonic() > self._signalled_at + self.patience

    def _pause(self, seconds: float) -> bool:
        """Wait; return whether a signal came."""
        deadline = time.monotonic() + seconds
        while self._signalled_at is None and time.monotonic() < deadline:
            time.sleep(min(_TICK, seconds))
        return self._signalled_at is not None

    def _checkpoints(self) -> set[Path]:
        """The checkpoints of the job, and of the runs in its folder."""
        if self.output_dir is None:
            return set()
        folders = [self.output_dir, *(path for path in self.output_dir.glob("*") if path.is_dir())]
        return {checkpoint for folder in folders for checkpoint in checkpoints(folder)}


def output_dir_of(command: Sequence[str]) -> Path | None:
    """Where a job writes: after its last ``--output_dir``, or as a JSON file among its words says; None if nowhere."""
    found = None
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word == "--output_dir" and following:
            found = following
        elif word.startswith("--output_dir="):
            found = word.partition("=")[2]
    return Path(found) if found else next(filter(None, map(_output_dir_in, command)), None)


def _output_dir_in(word: str) -> Path | None:
    if not word.endswith(".json"):
        return None
    try:
        arguments = read_json(Path(word))
    except UserError:  # the job itself will say so
        return None
    found = arguments.get("output_dir") if isinstance(arguments, dict) else None
    return Path(found) if isinstance(found, str) and found else None


def with_resume(command: Sequence[str]) -> list[str]:
    """Return the command with ``--resume`` as its last word, which overrides any ``--resume false`` before it."""
    return [*command] if command[-1] == "--resume" else [*command, "--resume"]


def _say(text: str) -> None:
    print(f"launch: {text}", file=sys.stderr, flush=True)
