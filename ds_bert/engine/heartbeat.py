"""Who of a job's processes is still there: what a collective that fails, or never ends, cannot say.

Beside every rank runs a watcher (`ds_bert.engine.watcher`), a small process of its own, and one of them, the first
rank's, is the hub to which all others keep a connection: traffic grows with the number of ranks, not with its square.
What is told from what:

* A rank that died: its watcher sees its parent gone. A rank that died with its watcher, as when all of a container ends
  or a node restarts: the kernel closes the watcher's connection without a farewell. Known in less than a second.
* A node without power, or out of reach: its watchers are silent. Known after the limit, 30 s by default.
* A rank that is stopped (SIGSTOP): its watcher sees that. It is given up after the same limit, as nothing says that it
  will go on; if all ranks are stopped, somebody did it on purpose (Ctrl-Z), and the job waits.
* A rank that is slow, loads, compiles, waits for a file system or keeps Python's lock for minutes: its process runs, so
  its watcher vouches for it. If others wait for it longer than their groups' timeout, they fail, and it is named
  with the line it is at.
* A rank that raises, or meets a user's mistake alone, says so itself. One that leaves says so, too, and alarms nobody.

The hub decides, and tells all the same. Then this module's thread ends the process, whatever its main thread waits in;
if it cannot, because that one keeps Python's lock or the process is stopped, the watcher does.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from threading import Event, Thread, get_ident
from types import CodeType

import torch
import torch.distributed as dist

from ds_bert.engine import process_group
from ds_bert.engine.meeting import connect, meeting_address
from ds_bert.engine.process_group import Grid
from ds_bert.engine.wire import Wire
from ds_bert.errors import StartError
from ds_bert.terminal import complain

SILENCE = 30.0  # seconds, by default, without a sign of life
INTERVAL = 1.0  # seconds between two signs of life, at most
_LONGEST_REASON = 4000  # characters
_LAST_WORDS = 4.0  # seconds for the flight recorder's dump, and for NCCL's abort
_LEAVING = 5.0  # seconds that a process stays for its watcher's farewell; the first one's waits for all others'
_NUMBERS = count()  # every process makes the same heartbeats one after the other; each has a key of its own
# Nothing but what the watcher imports is loaded: it is there in a moment.
_WATCHER = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ds_bert.engine.watcher import watch; watch()"


class Heartbeat:
    """Tells the others that this process lives and how it fails; ends it when the job must end.

    It is to be made by the thread that works: that one's occupation is told.

    Args:
        grid: this process's place; alone in the world, it needs no heartbeat.
        steps_done: says how many optimizer steps this process has done; may be replaced, once that can be known.
        silence: seconds without a sign of life after which a process is given up; the grid's timeout, if that is less.
        output_dir: where NCCL's last calls are written to; None for a temporary folder.

    Raises:
        StartError: the heartbeat of the launcher's first rank cannot be found.
    """

    def __init__(
        self,
        grid: Grid,
        steps_done: Callable[[], int] = lambda: 0,
        silence: float = SILENCE,
        output_dir: str | Path | None = None,
    ) -> None:
        self.steps_done = steps_done
        self._grid, self._output_dir, self._worker = grid, output_dir, get_ident()
        silence = min(silence, grid.timeout_seconds)
        self._interval = min(INTERVAL, silence / 8)
        self._stopped, self._failing, self._is_cause = Event(), Event(), Event()
        self._alone = grid.world_size == 1
        if not self._alone:
            self._watcher, self._wire = _start_watcher()
            self._introduce(silence)
            Thread(target=self._beat, daemon=True).start()

    def fail(self, error: Exception) -> None:
        """Print why this process ends, and tell the others. Returns if that is the error; else ends the process.

        Where the error is but the consequence of a peer's death or hanging, that is what is printed.
        """
        if not self._alone:
            self._failing.set()
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher that saw a rank die ends the others at once
            with contextlib.suppress(OSError):
                self._wire.send(failure=str(error)[:_LONGEST_REASON], waited=was_waiting(error))
            self._is_cause.wait()  # or the end
        self._say(str(error))
        self._speak_last_words()

    def stop(self, refusal: str | None = None) -> None:
        """Leave without alarming the others.

        Args:
            refusal: the user's mistake that is the reason; others that do not meet it end a while later.
        """
        if self._alone or self._stopped.is_set() or self._failing.is_set():
            return
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._wire.send(left=refusal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._watcher.wait(_LEAVING)

    def _introduce(self, silence: float) -> None:
        """Tell the watcher whom it watches, and where the hub is; the first rank tells the others, too."""
        grid, key = self._grid, f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_NUMBERS)}"
        first = grid.stage_map.grid_rank(0)
        setup = {
            "pid": os.getpid(),
            "rank": grid.rank,
            "first": first,
            "names": [grid.describe(rank) for rank in range(grid.world_size)],
            "silence": silence,
            "absence": grid.timeout_seconds,
            "interval": self._interval,
        }
        store = dist.PrefixStore("heartbeat", connect(grid.timeout_seconds))  # the restarts of torchrun share it
        try:
            if grid.rank == first:
                self._wire.send(**setup, hub=None)
                store.set(key, json.dumps(self._wire.await_message()))
            else:
                self._wire.send(**setup, hub={"address": meeting_address()[0], **json.loads(store.get(key))})
        except (EOFError, OSError):
            raise StartError("the process of this rank's heartbeat ended at once; see what it printed") from None
        except dist.DistError as error:
            cause = str(error).partition("\n")[0]
            raise StartError(f"{grid.describe(first)} has not told where its heartbeat is: {cause}") from None

    def _beat(self) -> None:
        try:
            while not self._stopped.is_set():
                self._wire.send(steps=self.steps_done(), at=occupation(self._worker))
                for message in self._wire.receive(self._interval):
                    if self._failing.is_set() and message["failed"] == self._grid.rank:
                        self._wire.send(ending=True)
                        self._is_cause.set()
                        return
                    self._end(message["verdict"])
        except Exception as error:  # without a heartbeat nobody would know how this process fares
            if not self._stopped.is_set():
                self._end(f"its heartbeat has ended: {str(error) or 'its watcher is gone'}")

    def _end(self, reason: str) -> None:
        with contextlib.suppress(OSError):
            self._wire.send(ending=True)
        self._say(reason)
        self._speak_last_words()
        os._exit(1)

    def _say(self, reason: str) -> None:
        complain(f"{self._grid}: after step {self.steps_done()}: {reason}")

    def _speak_last_words(self) -> None:
        """Keep what was printed and what NCCL did last, and make its kernels end; none of it may take long."""
        for work in (sys.stdout.flush, self._dump_trace, process_group.abort):
            side = Thread(target=work, daemon=True)
            side.start()
            side.join(_LAST_WORDS)

    def _dump_trace(self) -> None:
        if trace := process_group.dump_trace():
            folder = Path(self._output_dir or tempfile.mkdtemp(prefix="ds-bert-")) / "flight_recorder"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"nccl_trace_rank_{dist.get_rank()}"  # as torch's analyser wants them
            path.write_bytes(trace)
            print(f"NCCL's last calls of {self._grid}: {path}", file=sys.stderr, flush=True)


def _start_watcher() -> tuple[subprocess.Popen, Wire]:
    """Start the watcher of this process, out of reach of Ctrl-C; return it and the wire to it."""
    here, there = socket.socketpair()
    # Wherever this package was found, and not by where this process's path leads now: it may begin with "".
    path = [str(Path(__file__).resolve().parents[2]), *sys.path]
    command = [sys.executable, "-S", "-c", _WATCHER, json.dumps(path)]
    try:
        with there:
            watcher = subprocess.Popen(command, stdin=there.fileno(), stdout=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        raise StartError(f"the process of this rank's heartbeat cannot be started: {error}") from None
    return watcher, Wire(here)


# Where a thread stands in this package, or in torch's, it waits for peers, or for kernels that do: what is long but its
# own lies elsewhere.
_WAITING = tuple(os.path.dirname(file) + os.sep for file in (__file__, dist.__file__, torch.cuda.__file__))
_JOINING = ("join", "_wait_for_tstate_lock")  # for a thread that saves, and that may wait for peers


def occupation(thread: int) -> str:
    """Say at which line a thread stands; "" where it waits for peers, or has ended."""
    frame = sys._current_frames().get(thread)
    if frame is None or _waits(frame.f_code):
        return ""
    return f"{frame.f_code.co_filename}, line {frame.f_lineno} ({frame.f_code.co_name})"


def was_waiting(error: Exception) -> bool:
    """Whether an error was raised where peers are waited for."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return trace is not None and _waits(trace.tb_frame.f_code)


def _waits(code: CodeType) -> bool:
    if code.co_filename == threading.__file__:
        return code.co_name in _JOINING
    return code.co_filename.startswith(_WAITING)
