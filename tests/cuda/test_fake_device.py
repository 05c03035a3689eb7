"""The fake device records what a real one would wait for, copy and refuse: nothing more, nothing less."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.fake_cuda.recording import RECORDER, Phase
from tests.support.fake_cuda.server import FakeCuda

SHAPE = (4, 3)


def _on_device(shape: tuple[int, ...] = SHAPE, **options: Any) -> torch.Tensor:
    return torch.zeros(shape, device="cuda:0", **options)


def _read_one_number() -> None:
    assert _on_device()[0, 0].item() == 1.0
    assert bool((_on_device() > 0).all())


def _read_a_list() -> None:
    assert _on_device((2,)).tolist() == [1.0, 1.0]


def _send_pageable() -> None:
    torch.ones(SHAPE).to("cuda:0", non_blocking=True)


def _send_blocking() -> None:
    torch.tensor([1.0, 2.0], device="cuda:0")
    torch.ones(SHAPE).pin_memory().cuda()


def _send_pinned() -> None:
    staged = torch.empty(SHAPE, pin_memory=True)
    staged[:2].copy_(torch.ones(2, 3))
    assert staged[1:].is_pinned() and not torch.ones(2).is_pinned()
    assert staged.to("cuda:0", non_blocking=True).device.type == "cuda"


def _fetch_pageable() -> None:
    _on_device().to("cpu", non_blocking=True)


def _fetch_pinned() -> None:
    torch.empty(SHAPE).pin_memory().copy_(_on_device(), non_blocking=True)


def _choose_by_places() -> None:
    _on_device()[_on_device((2,), dtype=torch.int64)]


def _choose_by_places_on_the_host() -> None:
    _on_device()[torch.tensor([0, 1])]


def _fill_by_mask() -> None:
    tensor = _on_device()
    tensor[tensor > 0] = 1.0
    tensor.masked_fill_(tensor > 0, 2.0)


def _scatter_by_mask() -> None:
    tensor = _on_device()
    tensor[tensor > 0] = _on_device((12,))


def _compare() -> None:
    torch.equal(_on_device(), _on_device())


def _go_backward() -> None:
    layer = torch.nn.Linear(3, 2).to("cuda:0")
    layer(_on_device()).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.device.type == "cuda"


def _add_a_number_of_the_host() -> None:
    _on_device() + torch.tensor(1.0)


def _ask_an_event() -> None:
    event, stream = torch.cuda.Event(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        _on_device().record_stream(stream)
        event.record()
    torch.cuda.current_stream().wait_event(event)
    assert event.query()


def _wait_for_events_and_streams() -> None:
    torch.cuda.Event().synchronize()
    torch.cuda.Stream().synchronize()
    torch.cuda.synchronize()


SENT, FETCHED = "copy to the device", "copy from the device"
# What is waited for, and copies as (to the device, pinned, non-blocking).
RECORDED: dict[Callable[[], None], tuple[dict[str, int], list[tuple[bool, bool, bool]]]] = {
    _read_one_number: ({"item": 2}, []),
    _read_a_list: ({FETCHED: 1}, [(False, False, False)]),
    _send_pageable: ({}, [(True, False, True)]),
    _send_blocking: ({SENT: 2}, [(True, False, False), (True, True, False)]),
    _send_pinned: ({}, [(True, True, True)]),
    _fetch_pageable: ({FETCHED: 1}, [(False, False, True)]),
    _fetch_pinned: ({}, [(False, True, True)]),
    _choose_by_places: ({}, []),
    _choose_by_places_on_the_host: ({SENT: 1}, [(True, False, False)]),
    _fill_by_mask: ({}, []),
    _scatter_by_mask: ({"index_put_": 1}, []),
    _compare: ({"equal": 1}, []),
    _go_backward: ({SENT: 2}, [(True, False, False)] * 2),
    _add_a_number_of_the_host: ({}, []),
    _ask_an_event: ({}, []),
    _wait_for_events_and_streams: ({"event.synchronize": 1, "stream.synchronize": 1, "device synchronize": 1}, []),
}


def _record(function: Callable[[], None]) -> Phase:
    RECORDER.begin("here")
    function()
    return RECORDER.now


@pytest.mark.parametrize("function", RECORDED, ids=lambda function: function.__name__.strip("_"))
def test_waits_and_copies_are_recorded(fake_cuda: FakeCuda, function: Callable[[], None]) -> None:
    waits, copies = RECORDED[function]
    found = fake_cuda.run(_record, function)
    causes: Counter[str] = Counter()
    for wait, count in found.waits.items():
        causes[wait.cause] += count
    assert causes == waits
    assert sorted(copy[:3] for copy in found.copies.elements()) == sorted(copies)


def _ages() -> list[int]:
    """Ages in step 5 of an event's work, of a side stream's, and of a number's, all of step 3."""
    RECORDER.step, event, side = 3, torch.cuda.Event(), torch.cuda.Stream()
    number = _on_device((1,))
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.empty(1).pin_memory().copy_(number, non_blocking=True)
        event.record()
    RECORDER.step = 5
    _on_device()
    RECORDER.begin("here")
    event.synchronize()
    side.synchronize()
    number.item()
    return [wait.age for wait in RECORDER.now.waits]


def test_a_wait_is_as_old_as_what_is_waited_for(fake_cuda: FakeCuda) -> None:
    assert fake_cuda.run(_ages) == [2, 2, 0]  # to read a number, all that is before it in its queue is waited for


def _mix_in_a_sum() -> None:
    _on_device() + torch.ones(SHAPE)


def _mix_in_a_product() -> None:
    torch.nn.functional.linear(_on_device(), torch.ones(2, 3))


def _mix_in_place() -> None:
    torch.ones(1).add_(_on_device((1,)))


def _mix_in_a_list() -> None:
    torch.cat([_on_device(), torch.ones(SHAPE)])


def _mix_in_an_embedding() -> None:
    torch.nn.functional.embedding(torch.zeros(2, dtype=torch.int64), _on_device())


@pytest.mark.parametrize(
    "function", [_mix_in_a_sum, _mix_in_a_product, _mix_in_place, _mix_in_a_list, _mix_in_an_embedding]
)
def test_tensors_of_two_devices_are_refused(fake_cuda: FakeCuda, function: Callable[[], None]) -> None:
    with pytest.raises(AssertionError, match="DeviceMix"):
        fake_cuda.run(function)


def _die() -> None:
    os._exit(3)


def test_a_case_that_dies_is_told_of(fake_cuda: FakeCuda) -> None:
    with pytest.raises(AssertionError, match="died"):
        fake_cuda.run(_die)
    assert fake_cuda.run(_ages) == [2, 2, 0]  # others go on
