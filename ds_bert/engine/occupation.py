"""What a thread is at: waiting for other processes, or something of its own, which may never end."""

import os
import sys
import threading
from types import CodeType

import torch
import torch.distributed as dist

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
