"""``torch.cuda`` of the fake device: streams, events, pinned memory. Imported once, in a process of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

import torch

from tests.support.fake_cuda.program import PROGRAM
from tests.support.fake_cuda.recording import RECORDER

DEVICE = torch.device("cuda", 0)


class Stream:
    """A queue of work; ``step`` is that of the last work that was put into it."""

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        self.device, self.priority, self.cuda_stream, self.step = DEVICE, priority, next(_numbers), RECORDER.step

    def wait_stream(self, other: "Stream") -> None:
        self.wait_event(other.record_event())

    def wait_event(self, event: "Event") -> None:
        self.step = max(self.step, event.step)
        PROGRAM.follow(self.cuda_stream, event.mark)

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        RECORDER.wait("stream.synchronize", self.step)
        PROGRAM.wait(PROGRAM.mark(self.cuda_stream))


class Event:
    """A mark in a queue."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, **_: Any) -> None:
        self.step: int = RECORDER.step
        self.mark: int | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or current_stream()
        self.step, self.mark = stream.step, PROGRAM.mark(stream.cuda_stream)

    def wait(self, stream: Stream | None = None) -> None:
        (stream or current_stream()).wait_event(self)

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        RECORDER.wait("event.synchronize", self.step)
        PROGRAM.wait(self.mark)

    def elapsed_time(self, other: "Event") -> float:
        return 1.0


_numbers = count()
_DEFAULT = Stream()
_current = [_DEFAULT]


def current_stream(device: Any = None) -> Stream:
    """The stream that work is put into now."""
    return _current[-1]


def enqueue(name: str) -> None:
    """Put work into the current stream."""
    current_stream().step = RECORDER.step
    RECORDER.kernel(name)


def wait(cause: str) -> None:
    """Wait for all that is in the current stream."""
    RECORDER.wait(cause, current_stream().step)
    PROGRAM.wait(PROGRAM.mark(current_stream().cuda_stream))


@contextmanager
def _stream(stream: Stream | None) -> Iterator[None]:
    _current.append(stream or current_stream())
    yield
    _current.pop()


def _synchronize(device: Any = None) -> None:
    RECORDER.wait("device synchronize", RECORDER.step)
    PROGRAM.wait_for_all()


# The storages of pinned tensors, kept alive: an address that is used again would be taken for pinned.
_pinned: dict[int, Any] = {}


def pin(tensor: torch.Tensor) -> torch.Tensor:
    """Take note that a tensor of the host, and its views, lie in pinned memory."""
    _pinned[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
    return tensor


def is_pinned(tensor: torch.Tensor, device: Any = None) -> bool:
    """Whether a tensor lies in pinned memory."""
    return tensor.device.type == "cpu" and tensor.untyped_storage().data_ptr() in _pinned


def _pin_memory(tensor: torch.Tensor, device: Any = None) -> torch.Tensor:
    return tensor if is_pinned(tensor) else pin(tensor.clone())


def install() -> None:
    """Let ``torch.cuda`` be that of the fake device."""
    properties = SimpleNamespace(total_memory=80 << 30, major=9, minor=0, name="fake", multi_processor_count=132)
    answers = {
        "is_available": True,
        "is_initialized": True,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (9, 0),
        "get_device_name": properties.name,
        "get_device_properties": properties,
        "default_stream": _DEFAULT,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
        "mem_get_info": (80 << 30, 80 << 30),
    }
    answers |= dict.fromkeys(
        ("_lazy_init", "set_device", "empty_cache", "reset_peak_memory_stats", "manual_seed", "manual_seed_all")
    )
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, _answer=answer, **__: _answer)
    torch.cuda.default_generators = (torch.Generator(),)
    changes = {"Stream": Stream, "Event": Event, "current_stream": current_stream, "stream": _stream}
    for name, change in (changes | {"synchronize": _synchronize}).items():
        setattr(torch.cuda, name, change)
    torch.Tensor.pin_memory = _pin_memory  # type: ignore[method-assign, assignment]
    torch.Tensor.is_pinned = is_pinned  # type: ignore[method-assign, assignment]
    torch.Tensor.record_stream = lambda *_: None  # type: ignore[method-assign]
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(…, device="cuda")` begins on the host, then is copied
