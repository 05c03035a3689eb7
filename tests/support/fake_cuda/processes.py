"""One rank of a grid whose other processes are made up: what it sends goes nowhere, and what it gets has no values."""

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist
import torch.distributed._tools.fake_collectives  # noqa: F401  # collectives of FakeTensors
from torch.testing._internal.distributed.fake_pg import FakeStore

_say: Callable[[int, Any], Any] = lambda rank, mine: mine  # noqa: E731
_backends: dict[int, str] = {}


def become(rank: int, world_size: int) -> None:
    """Set the environment that a launcher gives one of its processes, on machines of one GPU each."""
    server = socket.create_server(("127.0.0.1", 0))  # ranks other than 0 look whether the store is served
    _kept.append(server)
    values = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": 0, "MASTER_PORT": server.getsockname()[1]}
    os.environ.update({name: str(value) for name, value in values.items()} | {"MASTER_ADDR": "127.0.0.1"})


_kept: list[Any] = []


def peers_say(answer: Callable[[int, Any], Any]) -> None:
    """Let ``answer(rank, mine)`` be what other ranks gather with this one; without it they say what this one says."""
    global _say
    _say = answer


def _store(world_size: int) -> dist.Store:
    """What the processes meet by; the others have told the names of their GPUs there."""
    store = dist.HashStore()
    for rank in range(world_size):
        store.set(f"gpu/{rank}", f"of rank {rank}")
    return store


def install() -> None:
    """Let ``torch.distributed`` be that of the one rank."""
    start, new_group, own_backend = dist.init_process_group, dist.new_group, dist.get_backend

    def init_process_group(backend: str, rank: int, world_size: int, **_: Any) -> None:
        start("fake", rank=rank, world_size=world_size, store=FakeStore())

    def make_group(ranks: Sequence[int] | None = None, backend: str | None = None, **_: Any) -> Any:
        group = new_group(ranks, backend="fake")
        _backends[id(group)] = backend or "nccl"
        _kept.append(group)
        return group

    def get_backend(group: Any = None) -> str:
        own_backend(group)  # raises where there is no group
        return _backends.get(id(group), "nccl")

    def all_gather_object(found: list[Any], mine: Any, group: Any = None) -> None:
        found[:] = [_say(rank, mine) for rank in dist.get_process_group_ranks(group or dist.group.WORLD)]

    def gather_object(mine: Any, found: list[Any] | None = None, dst: int | None = None, group: Any = None) -> None:
        if found is not None:
            all_gather_object(found, mine, group)

    changes = [init_process_group, get_backend, all_gather_object, gather_object]
    for change in changes:
        setattr(dist, change.__name__, change)
    dist.new_group = make_group  # type: ignore[assignment]
    dist.rendezvous = lambda url, rank=0, world_size=1, **_: iter([(_store(world_size), rank, world_size)])  # type: ignore
    dist.broadcast_object_list = lambda *_, **__: None  # type: ignore[assignment]
