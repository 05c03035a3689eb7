"""The fake device records what a real one would wait for, copy and refuse: nothing more, nothing less."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.fake_cuda.server import FakeCuda


def _record(function: Callable[[torch.Tensor], Any]) -> tuple[dict[str, int], list[tuple[bool, bool, bool]], int]:
    from tests.support.fake_cuda.recording import RECORDER

    tensor = torch.zeros(4, device="cuda:0")
    RECORDER.begin("here")
    function(tensor)
    phase = RECORDER.now
    waits: dict[str, int] = {}
    for wait, count in phase.waits.items():
        waits[wait.cause] = waits.get(wait.cause, 0) + count
    return waits, [copy[:3] for copy in phase.copies.elements()], phase.kernels.total()
