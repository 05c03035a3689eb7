"""When a process computed, sent and waited: always summed up, kept in detail for the steps that are traced."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

COMPUTE = ("forward", "backward")


@dataclass(frozen=True)
class Span:
    """One thing a process did: its kind, micro-batch, and begin and end in seconds since 1970.

    Steps count from 1. A micro-batch's spans belong to the step that its gradients lead to, also where, under 2BW, the
    next global batch has begun; an evaluation's to the step it follows, or to 0.
    """

    kind: str
    step: int
    micro_batch: int
    begin: float
    end: float


@dataclass(frozen=True)
class _Timed:
    """A span whose times the device is still to tell; without a kind it is the instant in which a step began."""

    kind: str
    step: int
    micro_batch: int
    begin: torch.cuda.Event
    end: torch.cuda.Event


class Timeline:
    """Measures spans of work on one device.

    On CUDA the queue's own clock is read, once it has come that far, so that measuring makes nothing wait. CUDA tells
    the milliseconds between two events as a float32, which over hours would be too coarse: times count from the last
    `end_step`, whose own time is added up step by step.

    Args:
        device: that computes.
        traced: the steps, counted from 1, whose spans are kept, or how many of the last ones. Of others, spans of
            computing are summed up, and the rest is not measured: what is kept does not grow with the run.
    """

    def __init__(self, device: torch.device, traced: range | int = 0) -> None:
        self.device, self.traced = device, traced
        self.busy_seconds = 0.0
        self.step = 0  # the last one that has ended
        self._kept: dict[int, list[Span]] = {}  # by step
        self._offset = time.time() - time.perf_counter()
        self._timed: deque[_Timed] = deque()
        self._origin: tuple[float, torch.cuda.Event] | None = None

    def start(self) -> None:
        """Find out when the device's clock began; what is queued there must not wait for other processes."""
        if self.device.type == "cuda" and self._origin is None:
            torch.cuda.synchronize(self.device)
            self._origin = time.time(), _mark()

    @property
    def spans(self) -> list[Span]:
        """What is kept, in the order in which it began."""
        return sorted((span for spans in self._kept.values() for span in spans), key=lambda span: span.begin)

    def end_step(self, step: int) -> None:
        """Take note that a step, counted from 1, has ended; forget what is not among the last ones any more."""
        self.step = step
        self._kept = {number: spans for number, spans in self._kept.items() if self._is_traced(number)}
        if self._origin is not None:
            event = _mark()
            self._timed.append(_Timed("", step, -1, event, event))

    @contextmanager
    def span(self, kind: str, micro_batch: int = -1, step: int | None = None) -> Iterator[None]:
        """Measure what happens inside the with-block, for ``step``, counted from 1; None: the last that has ended."""
        step = self.step if step is None else step
        if kind not in COMPUTE and not self._is_traced(step):
            yield
        elif self.device.type == "cuda":
            self.start()
            begin_event = _mark()
            yield
            self._timed.append(_Timed(kind, step, micro_batch, begin_event, _mark()))
        else:
            begin = time.perf_counter()
            yield
            self._add(kind, step, micro_batch, begin + self._offset, time.perf_counter() + self._offset)

    def _add(self, kind: str, step: int, micro_batch: int, begin: float, end: float) -> None:
        if kind in COMPUTE:
            self.busy_seconds += end - begin
        if self._is_traced(step):
            self._kept.setdefault(step, []).append(Span(kind, step, micro_batch, begin, end))

    def _is_traced(self, step: int) -> bool:
        if isinstance(self.traced, range):
            return step in self.traced
        return self.traced > 0 and step > self.step - self.traced

    def collect(self, wait: bool = False) -> None:
        """Take in what the device has measured by now; with ``wait``, all that was to be measured."""
        while self._timed and (wait or self._timed[0].end.query()):
            timed = self._timed.popleft()
            if wait:
                timed.end.synchronize()
            assert self._origin is not None
            seconds, origin = self._origin
            begin, end = (seconds + origin.elapsed_time(event) / 1e3 for event in (timed.begin, timed.end))
            if timed.kind:
                self._add(timed.kind, timed.step, timed.micro_batch, begin, end)
            else:
                self._origin = end, timed.end


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
