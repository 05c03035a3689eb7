"""NCCL's and CUDA's blocking points put back on gloo, so that what would hang on GPUs hangs on CPUs, too.

Here host and device are one, and so the emulation is the stricter one: what it lets pass, GPUs do.

* A communicator of two ranks is made by its first message, which returns when both ends have come.
* A collective's communicator is made by the first call, which returns when all members have come.
* What a communicator was given is done in that order: a message waits for a receive that was posted before it.
* A posted receive occupies the device: whoever waits for the device waits for all of them.
* A layer's first forward and its first backward load kernels, and these wait for the device.
* The clock is started by waiting for the device.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from ds_bert.engine.engine import Engine
from ds_bert.engine.process_group import Grid


class Hang(AssertionError):
    """Somebody waits for what does not come."""


class _Receive:
    """A posted receive; waiting for it twice is no mistake."""

    def __init__(self, work: Any) -> None:
        self._work, self._is_done = work, False

    def wait(self) -> None:
        if not self._is_done:
            try:
                self._work.wait()
            except RuntimeError as error:
                raise Hang(f"a posted receive is never answered: {error}") from error
            self._is_done = True

    def is_completed(self) -> bool:
        return self._is_done


class Nccl:
    """What the processes of one test share.

    Args:
        patience: seconds of waiting that count as for ever.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._made: set[str] = set()
        self._receives: dict[str, list[_Receive]] = {}
        self._of_device: set[str] = set()
        self.waits_for_device = 0

    @contextmanager
    def emulated(self) -> Iterator[None]:
        """Let torch's messages and collectives on the device's groups behave like NCCL's."""
        self._isend, self._irecv, self._all_reduce = dist.isend, dist.irecv, dist.all_reduce
        make_group = Grid.new_group

        def new_group(grid: Grid, ranks: Any = None, backend: Any = None, options: Any = None) -> Any:
            group = make_group(grid, ranks, backend, options)
            if backend is None and isinstance(group, dist.ProcessGroup):
                self._of_device.add(group.group_name)
            return group

        with (
            mock.patch.object(Grid, "new_group", new_group),
            mock.patch.object(dist, "isend", self._send),
            mock.patch.object(dist, "irecv", self._receive),
            mock.patch.object(dist, "all_reduce", self._add_up),
        ):
            yield

    def watch(self, engine: Engine) -> None:
        """Let an engine's layers load kernels, and its clock wait for the device, as on a GPU."""
        for layer in engine.module.forward_funcs:
            self._loads_at_first(layer)
        start, started = engine.timeline.start, []

        def wait_and_start() -> None:
            if not started:
                started.append(True)
                self.wait_for_device()
            start()

        engine.timeline.start = wait_and_start  # type: ignore[method-assign]
        span = engine.timeline.span

        @contextmanager
        def starting_span(*of_what: Any, **more: Any) -> Iterator[None]:
            engine.timeline.start()
            with span(*of_what, **more):
                yield

        engine.timeline.span = starting_span  # type: ignore[method-assign,assignment]

    def _loads_at_first(self, layer: torch.nn.Module) -> None:
        loaded: set[str] = set()

        def load(what: str) -> None:
            if what not in loaded:
                loaded.add(what)
                self.wait_for_device()

        layer.register_forward_pre_hook(lambda *_: load("forward"))
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda _: load("backward"))

    def wait_for_device(self) -> None:
        """Wait for all posted receives, as `torch.cuda.synchronize` would."""
        self.waits_for_device += 1
        for receives in self._receives.values():
            for receive in receives:
                receive.wait()
            receives.clear()

    def _meet(self, communicator: str, members: int) -> None:
        """Return when all members have come for the first time."""
        if communicator in self._made:
            return
        store = dist.distributed_c10d._get_default_store()
        store.add(communicator, 1)
        deadline = time.monotonic() + self._patience
        while store.add(communicator, 0) < members:
            if time.monotonic() > deadline:
                raise Hang(f"nobody comes to make {communicator}")
            time.sleep(0.001)
        self._made.add(communicator)

    def _pair(self, peer: int, group: Any) -> str:
        rank = dist.get_rank()
        communicator = f"{group.group_name}:{min(rank, peer)}-{max(rank, peer)}"
        self._meet(communicator, 2)
        return communicator

    def _send(self, tensor: torch.Tensor, peer: int, group: Any) -> Any:
        for receive in self._receives.pop(self._pair(peer, group), ()):
            receive.wait()
        return self._isend(tensor, peer, group=group)

    def _receive(self, tensor: torch.Tensor, peer: int, group: Any) -> _Receive:
        communicator = self._pair(peer, group)
        receive = _Receive(self._irecv(tensor, peer, group=group))
        self._receives.setdefault(communicator, []).append(receive)
        return receive

    def _add_up(self, tensor: torch.Tensor, *arguments: Any, group: Any = None, **options: Any) -> Any:
        if group is not None and group.group_name in self._of_device:
            self._meet(group.group_name, dist.get_world_size(group))
        return self._all_reduce(tensor, *arguments, group=group, **options)
