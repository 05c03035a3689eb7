"""When a process computed, sent and waited: always summed up, kept in detail where asked for."""

import time
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
    """

    def __init__(self, device: torch.device, keep: bool) -> None:
        self.device, self.keep = device, keep
        self.spans: list[Span] = []
        self.busy_seconds = 0.0
        self.step = 0
        self._offset = time.time() - time.perf_counter()
        self._events: list[tuple[str, int, torch.cuda.Event, torch.cuda.Event]] = []
        self._origin: tuple[float, torch.cuda.Event] | None = None

    @contextmanager
    def span(self, kind: str, micro_batch: int = -1) -> Iterator[None]:
        """Measure what happens inside the with-block."""
        if self.device.type == "cuda":
            begin_event = self._mark()
            yield
            self._events.append((kind, micro_batch, begin_event, self._mark()))
            return
        begin = time.perf_counter()
        yield
        self._add(kind, micro_batch, begin + self._offset, time.perf_counter() + self._offset)

    def _mark(self) -> torch.cuda.Event:
        if self._origin is None:
            torch.cuda.synchronize(self.device)
            origin = torch.cuda.Event(enable_timing=True)
            origin.record()
            self._origin = (time.time(), origin)
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _add(self, kind: str, micro_batch: int, begin: float, end: float) -> None:
        if kind in COMPUTE:
            self.busy_seconds += end - begin
        if self.keep:
            self.spans.append(Span(kind, self.step, micro_batch, begin, end))

    def end_step(self) -> None:
        """Take in what the device measured; call it where the step has been waited for anyway."""
        for kind, micro_batch, begin, end in self._events:
            assert self._origin is not None
            end.synchronize()
            start, origin = self._origin
            self._add(
                kind, micro_batch, start + origin.elapsed_time(begin) / 1e3, start + origin.elapsed_time(end) / 1e3
            )
        self._events.clear()
        self.step += 1
