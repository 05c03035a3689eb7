"""When a process computed, sent and waited: always summed up, kept in detail where asked for."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

COMPUTE = ("forward", "backward")


@dataclass(frozen=True)
class Span:
    """One thing a process did: its kind, micro-batch, and begin and end in seconds since 1970."""

    kind: str
    step: int
    micro_batch: int
    begin: float
    end: float


class Timeline:
    """Measures spans of work on one device.

    On CUDA the queue's own clock is read, once per step, so that measuring makes nothing wait.

    Args:
        device: that computes.
        keep: whether spans are kept; else they are summed up only.
    """

    def __init__(self, device: torch.device, keep: bool) -> None:
        self.device, self.keep = device, keep
        self.spans: list[Span] = []
        self.busy_seconds = 0.0
        self.step = 0
        self._offset = time.time() - time.perf_counter()
        self._events: deque[tuple[str, int, int, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._origin: tuple[float, torch.cuda.Event] | None = None

    @contextmanager
    def span(self, kind: str, micro_batch: int = -1) -> Iterator[None]:
        """Measure what happens inside the with-block."""
        if self.device.type == "cuda":
            begin_event = self._mark()
            yield
            self._events.append((kind, self.step, micro_batch, begin_event, self._mark()))
            return
        begin = time.perf_counter()
        yield
        self._add(kind, self.step, micro_batch, begin + self._offset, time.perf_counter() + self._offset)

    def _mark(self) -> torch.cuda.Event:
        if self._origin is None:
            torch.cuda.synchronize(self.device)
            origin = torch.cuda.Event(enable_timing=True)
            origin.record()
            self._origin = (time.time(), origin)
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _add(self, kind: str, step: int, micro_batch: int, begin: float, end: float) -> None:
        if kind in COMPUTE:
            self.busy_seconds += end - begin
        if self.keep:
            self.spans.append(Span(kind, step, micro_batch, begin, end))

    def collect(self, wait: bool = True) -> None:
        """Take in what the device measured; without ``wait``, as far as it has come."""
        while self._events and (wait or self._events[0][-1].query()):
            kind, step, micro_batch, begin, end = self._events.popleft()
            end.synchronize()
            assert self._origin is not None
            start, origin = self._origin
            seconds = (start + origin.elapsed_time(event) / 1e3 for event in (begin, end))
            self._add(kind, step, micro_batch, *seconds)
