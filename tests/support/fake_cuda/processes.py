"""One rank of a grid whose other processes are made up: what it sends goes nowhere, and what it gets has no values."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist
import torch.distributed._tools.fake_collectives  # noqa: F401  # collectives of FakeTensors
from torch.testing._internal.distributed.fake_pg import FakeStore

from ds_bert.engine import process_group
from tests.support.fake_cuda.program import PROGRAM
from tests.support.fake_cuda.torch_cuda import current_stream

_say: Callable[[int, Any], Any] = lambda rank, mine: mine  # noqa: E731
_backends: dict[int, str] = {}


def become(rank: int, world_size: int) -> None:
    """Set the environment that a launcher gives one of its processes, on machines of one GPU each."""
    values = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": 0, "MASTER_PORT": 1}
    os.environ.update({name: str(value) for name, value in values.items()} | {"MASTER_ADDR": "127.0.0.1"})


def peers_say(answer: Callable[[int, Any], Any]) -> None:
    """Let ``answer(rank, mine)`` be what other ranks gather with this one; without it they say what this one says."""
    global _say
    _say = answer


_kept: list[Any] = []  # groups, so that none takes another's address
_COLLECTIVES = {"all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_single"}
_COLLECTIVES |= {"reduce_scatter", "reduce_scatter_tensor", "reduce_scatter_single"}  # some torch's newer, some older
_groups: dict[int, tuple[str, tuple[int, ...]]] = {}


def _members(group: Any) -> tuple[str, tuple[int, ...]]:
    """A group's name, the same on all ranks, and its ranks."""
    return _groups.get(id(group)) or ("world", tuple(range(dist.get_world_size())))


class _Queued:
    """A message or collective in the device's queue."""

    def __init__(self, mark: int) -> None:
        self._mark = mark

    def wait(self, timeout: Any = None) -> None:
        PROGRAM.follow(current_stream().cuda_stream, self._mark)

    def is_completed(self) -> bool:
        return True


class _Heard:
    """What a process was told, or told itself, as then it has no name."""

    def __init__(self, name: str = "", members: tuple[int, ...] = ()) -> None:
        self._name, self._members = name, members

    def wait(self, timeout: Any = None) -> None:
        if self._name:
            PROGRAM.on_host("hear", self._name, self._members)


def _recorded(collective: Callable[..., Any], own_backend: Callable[[Any], str]) -> Callable[..., Any]:
    """A collective that is put into the program, too: into the device's queue, or, under gloo, to be waited for."""

    def call(*arguments: Any, group: Any = None, async_op: bool = False, **options: Any) -> Any:
        collective(*arguments, group=group, async_op=async_op, **options)
        name, members = _members(group)
        if own_backend(group) == "gloo":
            PROGRAM.on_host("gather", name, members)
            return _Heard()
        work = _Queued(PROGRAM.meet(name, members, current_stream().cuda_stream))
        if not async_op:
            work.wait()
        return work

    return call


def _between_two(message: Callable[..., Any]) -> Callable[..., Any]:
    """A message that is put into the program, too; NCCL makes a communicator for the two."""

    def call(tensor: Any, peer: int, group: Any = None) -> _Queued:
        message(tensor, peer, group=group)
        pair = tuple(sorted((dist.get_rank(), peer)))
        name = f"{_members(group)[0]} {pair[0]}-{pair[1]}"
        return _Queued(PROGRAM.meet(name, pair, current_stream().cuda_stream, message.__name__))

    return call


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
        # All processes make the same groups one after the other: a number names the same one everywhere.
        members = tuple(range(dist.get_world_size()) if ranks is None else ranks)
        _groups[id(group)] = f"group {len(_kept)}", members
        _kept.append(group)
        return group

    def get_backend(group: Any = None) -> str:
        own_backend(group)  # raises where there is no group
        return _backends.get(id(group), "nccl")

    def all_gather_object(found: list[Any], mine: Any, group: Any = None) -> None:
        PROGRAM.on_host("gather", *_members(group))
        found[:] = [_say(rank, mine) for rank in dist.get_process_group_ranks(group or dist.group.WORLD)]

    def gather_object(mine: Any, found: list[Any] | None = None, dst: int | None = None, group: Any = None) -> None:
        if found is None:
            PROGRAM.on_host("gather", *_members(group))
        else:
            all_gather_object(found, mine, group)

    def broadcast(tensor: Any, src: int, group: Any = None, async_op: bool = False) -> Any:
        name, members = _members(group)
        if src == dist.get_rank():
            PROGRAM.on_host("tell", name, members)
            return _Heard()
        return _Heard(name, members)

    for collective in _COLLECTIVES & vars(dist).keys():
        setattr(dist, collective, _recorded(getattr(dist, collective), own_backend=get_backend))
    for message in ("isend", "irecv"):
        setattr(dist, message, _between_two(getattr(dist, message)))
    changes = [broadcast, init_process_group, get_backend, all_gather_object, gather_object]
    for change in changes:
        setattr(dist, change.__name__, change)
    dist.new_group = make_group  # type: ignore[assignment]
    process_group.meet = lambda rank, world_size, *_: _store(world_size)  # type: ignore[assignment]
    dist.broadcast_object_list = lambda *_, **__: None  # type: ignore[assignment]
