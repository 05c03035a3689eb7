"""What is recorded of the fake device: kernels, copies, and whatever made the host wait, by file and line."""

import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

PACKAGE = str(Path(__file__).resolve().parents[3] / "ds_bert") + "/"


class Copy(NamedTuple):
    """A copy between host and device: "pinned" says how the host's memory is."""

    to_device: bool
    pinned: bool
    non_blocking: bool
    place: str


class Wait(NamedTuple):
    """The host waited for the device.

    Args:
        cause: "item", "nonzero", "event.synchronize", a copy that blocks, …
        age: steps since what was waited for was put into the device's queue: 0 is this step's own work, for which the
            queue has to run empty; work that is one step old is long done.
    """

    cause: str
    age: int
    place: str


@dataclass
class Phase:
    """What happened in one phase of a run."""

    kernels: Counter[str] = field(default_factory=Counter)
    copies: Counter[Copy] = field(default_factory=Counter)
    waits: Counter[Wait] = field(default_factory=Counter)

    def describe(self) -> str:
        """List waits and copies, for people."""
        waits = [f"{count} x {wait.cause} at {wait.place}, age {wait.age}" for wait, count in self.waits.items()]
        copies = [
            f"{count} x {'pinned' if copy.pinned else 'pageable'}, {'non-' if copy.non_blocking else ''}blocking copy "
            f"{'to' if copy.to_device else 'from'} the device at {copy.place}"
            for copy, count in self.copies.items()
        ]
        return "\n".join(waits + copies) or "no waits, no copies"


class Recorder:
    """Records into the phase that is begun last; steps are counted by whoever runs them."""

    def __init__(self) -> None:
        self.step = 0
        self.phases: dict[str, Phase] = {}
        self.begin("before")

    def begin(self, phase: str) -> None:
        """Begin, or go on with, a phase."""
        self.now = self.phases.setdefault(phase, Phase())

    def kernel(self, name: str) -> None:
        """Something was put into the device's queue."""
        self.now.kernels[name] += 1

    def wait(self, cause: str, since: int) -> None:
        """The host waited for what was put into the queue in step ``since``."""
        self.now.waits[Wait(cause, self.step - since, place())] += 1

    def copy(self, to_device: bool, pinned: bool, non_blocking: bool) -> None:
        """Bytes went between host and device."""
        self.now.copies[Copy(to_device, pinned, non_blocking, place())] += 1


def place() -> str:
    """The innermost line of ds_bert that runs; that which waits for a backward, in one of autograd's own threads."""
    threads = sys._current_frames()
    for thread in (threading.get_ident(), threading.main_thread().ident):
        frame = threads.get(thread or 0)
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGE):
                return f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}"
            frame = frame.f_back
    return "elsewhere"


RECORDER = Recorder()
"""Of this process, of which one case is run."""
