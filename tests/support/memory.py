"""What a piece of code allocates, in bytes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes


class Allocations(TorchDispatchMode):
    """While it is on, counts the bytes of the tensors' memory that is made and still in use, but for `on_host`'s.

    ``peak`` is the most there was at once. On the CPU host and device are one: all that a test does not say to be the
    host's counts as the device's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bytes = 0  # of `_made`, where some may be gone

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {_storage(leaf) for leaf in _leaves((args, *kwargs.values())) if isinstance(leaf, _WITH_MEMORY)}
        result = function(*args, **kwargs)
        for leaf in _leaves(result):
            if isinstance(leaf, torch.Tensor) and _storage(leaf) not in given:
                self._note(leaf.untyped_storage())
        if self._bytes > self.peak:  # as long as it is not, no look at what is gone is needed
            self._made = {key: entry for key, entry in self._made.items() if not entry[0].expired()}
            self._bytes = sum(size for _, size in self._made.values())
            self.peak = max(self.peak, self._bytes)
        return result

    def _note(self, memory: torch.UntypedStorage) -> None:
        _, before = self._made.get(memory._cdata, (None, 0))
        self._made[memory._cdata] = StorageWeakRef(memory), memory.nbytes()
        self._bytes += memory.nbytes() - before


def on_host(allocate: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose memory `Allocations` do not count."""

    def allocate_on_host(*arguments: Any, **options: Any) -> Any:
        with _disable_current_modes():
            return allocate(*arguments, **options)

    return allocate_on_host


_WITH_MEMORY = (torch.Tensor, torch.UntypedStorage)  # a storage that is handed in is, for example, a mapped file


def _leaves(values: Any) -> Iterator[Any]:
    """What is in these values, and in the lists and tuples among them."""
    if isinstance(values, list | tuple):
        for value in values:
            yield from _leaves(value)
    else:
        yield values


def _storage(holder: torch.Tensor | torch.UntypedStorage) -> int:
    return (holder.untyped_storage() if isinstance(holder, torch.Tensor) else holder)._cdata
