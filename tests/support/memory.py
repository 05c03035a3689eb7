"""What a piece of code allocates, in bytes."""

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """While it is on, counts the bytes of the tensors' memory that is made and still in use, but for `on_host`'s.

    ``peak`` is the most there was at once. On the CPU host and device are one: all that a test does not say to be the
    host's counts as the device's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _WITH_MEMORY)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and _storage(leaf) not in given:
                memory = leaf.untyped_storage()
                self._alive[_storage(leaf)] = StorageWeakRef(memory), memory.nbytes()
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def on_host(allocate: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose memory `Allocations` do not count."""

    def allocate_on_host(*arguments: Any, **options: Any) -> Any:
        with _disable_current_modes():
            return allocate(*arguments, **options)

    return allocate_on_host


_WITH_MEMORY = (torch.Tensor, torch.UntypedStorage)  # a storage that is handed in is, for example, a mapped file


def _storage(holder: torch.Tensor | torch.UntypedStorage) -> int:
    return (holder.untyped_storage() if isinstance(holder, torch.Tensor) else holder)._cdata
