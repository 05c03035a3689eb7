"""The fake device: every operation of torch passes here, on its way to a FakeTensor or, on the host, to a real one."""

import gc
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import arg_tree_leaves

from tests.support.fake_cuda.recording import RECORDER
from tests.support.fake_cuda.torch_cuda import DEVICE, enqueue, is_pinned, pin, wait

# What has to know values of the device before it can say how large its result is, or that says so to the host.
_WAITING = {
    "nonzero", "masked_select", "bincount", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "_unique",
    "_unique2", "equal", "repeat_interleave", "histc", "_local_scalar_dense", "is_nonzero",
}  # fmt: skip
_INDEXING = ("index", "index_put", "index_put_")
# Neither a kernel nor a copy: they say where and how a tensor lies.
_PLAIN = {
    "detach", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "alias",
    "lift_fresh", "set_", "resize_", "is_same_size", "_reshape_alias", "record_stream",
    "_has_compatible_shallow_copy_type",
}  # fmt: skip


class DeviceMix(RuntimeError):
    """An operation was given tensors of the host beside such of the device."""


class FakeDevice(TorchDispatchMode):
    """Runs what concerns ``cuda:0`` on FakeTensors and all else for real."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in arg_tree_leaves(*args, **kwargs) if isinstance(leaf, torch.Tensor)]
        wanted = kwargs.get("device")
        if not any(map(_is_on_device, tensors)) and (wanted is None or torch.device(wanted).type != DEVICE.type):
            return _on_host(func, args, kwargs)
        name = func._schema.name.split("::")[1]
        if name == "_to_copy" or name == "copy_":
            return self._copy(name, func, args, kwargs)
        if func.namespace == "aten":
            _check_devices(func, name, args, tensors)
            if name in _WAITING or (name in _INDEXING and _has_mask(args)):
                wait("item" if name == "_local_scalar_dense" else name)
            if name == "_local_scalar_dense":
                return torch.ones((), dtype=args[0].dtype).item()
            if name == "equal":
                return True
            if not (func.is_view or name in _PLAIN):
                enqueue(name)
            if name.startswith("_fused") and not func._schema.returns:
                return None  # an optimizer's step, in place; torch does not know the shapes of all of them
        with self.fake:
            return func(*args, **kwargs)

    def _copy(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        source, target = args[0].device, torch.device(kwargs.get("device") or args[0].device)
        if name == "copy_":
            source, target = args[1].device, args[0].device
        if source.type == target.type:
            enqueue(name)
            with self.fake:
                return func(*args, **kwargs)
        non_blocking = bool(kwargs.get("non_blocking", len(args) > 2 and args[2]))
        to_device = target.type == DEVICE.type
        host = args[0] if (name == "_to_copy") == to_device else args[1 if to_device else 0]
        pinned = is_pinned(host) if host.device.type == "cpu" else kwargs.get("pin_memory", False)
        enqueue("copy")
        RECORDER.copy(to_device, pinned, non_blocking)
        if not non_blocking or not (to_device or pinned):  # without pinned memory, the host waits for what it is sent
            wait(f"copy {'to' if to_device else 'from'} the device")
        if name == "copy_":
            return args[0] if to_device else args[0].fill_(1)
        shape, dtype = args[0].shape, kwargs.get("dtype") or args[0].dtype
        if not to_device:
            return torch.ones(shape, dtype=dtype)
        with self.fake:
            return torch.empty_strided(shape, args[0].stride(), dtype=dtype, device=DEVICE)


def _is_on_device(tensor: torch.Tensor) -> bool:
    return tensor.device.type == DEVICE.type


def _on_host(func: Any, args: Any, kwargs: Any) -> Any:
    pins = kwargs.get("pin_memory")
    result = func(*args, **(kwargs | {"pin_memory": False} if pins else kwargs))
    return pin(result) if pins else result


def _check_devices(func: Any, name: str, args: Any, tensors: list[torch.Tensor]) -> None:
    """Refuse tensors of the host beside those of the device, but for scalars, which are a kernel's arguments."""
    on_host = [tensor for tensor in tensors if tensor.ndim and not _is_on_device(tensor)]
    if name in _INDEXING:  # torch itself moves their indices, and waits
        for index in args[1]:
            if index is not None and not _is_on_device(index):
                RECORDER.copy(True, is_pinned(index), False)
                wait("copy to the device")
                on_host = [tensor for tensor in on_host if tensor is not index]
    if on_host:
        raise DeviceMix(f"{func}: {', '.join(f'{tuple(tensor.shape)} on {tensor.device}' for tensor in tensors)}")


def _has_mask(args: Any) -> bool:
    """Whether an index is a mask; one number put where a single mask is true needs no list of places."""
    masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
    is_fill = len(args) > 2 and len(args[1]) == 1 and args[2].numel() == 1
    return bool(masks) and not is_fill


def bytes_on_device() -> int:
    """Bytes of all tensors of the device that are alive."""
    gc.collect()
    storages = (item.untyped_storage() for item in gc.get_objects() if type(item) is FakeTensor)
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def _move(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
    """Move a module: torch's own cannot put a FakeTensor into a parameter that exists, so here is another for it."""
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

    made: dict[int, torch.nn.Parameter] = {}
    for part in module.modules():
        for name, old in part._parameters.items():
            if old is not None and (new := moved(old.data)) is not old.data:
                made.setdefault(id(old), torch.nn.Parameter(new, old.requires_grad))
                part._parameters[name] = made[id(old)]
        part._buffers |= {name: moved(old) for name, old in part._buffers.items() if old is not None}
    return module


torch.nn.Module.to = _move  # type: ignore[method-assign]
FakeTensor.tolist = lambda tensor: tensor.cpu().tolist()  # type: ignore[method-assign]  # one copy, not one for each number
