"""The device that a process computes on, and the backend that its messages go through."""

import os
import socket
import sys
from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist

from ds_bert.errors import UserError

Backend = Literal["nccl", "gloo"]

# How many of NCCL's last calls the flight recorder keeps, for when a rank is lost; before torch 2.9 by the second name.
_RECORDER_SIZES = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")


def keep_nccls_last_calls() -> None:
    """Let torch's flight recorder run, unless the user has said otherwise; before groups are made."""
    if not any(name in os.environ for name in _RECORDER_SIZES):
        os.environ[_RECORDER_SIZES[torch.__version__ < "2.9"]] = "2000"


def choose_device(local_rank: int, transport: str) -> torch.device:
    """Return the device of this process: a GPU where there is one, else the CPU; ``DS_ACCELERATOR=cpu`` overrides.

    Where a scheduler shows each task its own GPU only, that is number 0 for all of them.

    Raises:
        UserError: there are fewer GPUs than processes, and ``transport`` does not let them share; or no GPU for NCCL.
    """
    use_cuda = os.environ.get("DS_ACCELERATOR", "cuda") == "cuda" and torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if use_cuda else "cpu")
    if not use_cuda:
        if transport == "nccl":
            raise UserError("--transport nccl needs GPUs, and this process computes on the CPU; needed is auto or gloo")
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count > 1 and transport != "gloo":
        raise UserError(
            f"process {local_rank} of this machine (counted from 0) finds {count} GPUs; needed is one for each "
            "process, or --transport gloo, with which processes share GPUs"
        )
    device = torch.device("cuda", local_rank % count)
    torch.cuda.set_device(device)
    return device


def choose_backend(transport: str, device: torch.device, store: dist.Store, rank: int, world_size: int) -> Backend:
    """Return the backend of all groups: gloo on CPUs, and NCCL on GPUs, where each process has one to itself.

    NCCL refuses two processes on one GPU, so there gloo carries the messages, through the host's memory.

    Args:
        transport: what the user asked for: "nccl", "gloo", or "auto".
        device: of this process.
        store: where the processes tell each other their GPUs.
        rank, world_size: the launcher's.

    Raises:
        UserError: on all processes, where NCCL was asked for and two of them have the same GPU.
    """
    if device.type == "cpu" or transport == "gloo":
        return "gloo"
    store.set(f"gpu/{rank}", _name_of_gpu(device))
    owners: dict[bytes, int] = {}
    for other in range(world_size):
        first = owners.setdefault(store.get(f"gpu/{other}"), other)
        if first != other:
            if transport == "nccl":
                raise UserError(
                    f"ranks {first} and {other} compute on the same GPU, which NCCL cannot do; needed is one for each "
                    "process, or --transport gloo"
                )
            if rank == 0:
                print(
                    f"ranks {first} and {other} share a GPU: messages go through the host's memory (as with "
                    "--transport gloo), which is slow",
                    file=sys.stderr,
                )
            return "gloo"
    return "nccl"


def host_buffer(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return memory of the host that a GPU copies to and from while both go on; torch reuses it once they are done."""
    return torch.empty(shape, dtype=dtype, pin_memory=torch.cuda.is_available())


def _name_of_gpu(device: torch.device) -> str:
    """What no other GPU of the job is called."""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return f"{socket.gethostname()} {uuid or (os.environ.get('CUDA_VISIBLE_DEVICES'), device.index)}"
