"""What is left to do with NCCL's communicators when a job ends because of another rank."""

import contextlib
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d


def dump_trace() -> bytes | None:
    """The last collectives of this process as torch's flight recorder kept them, in the form of its own analyser.

    None without NCCL, and where torch is too old or the recorder is switched off.
    """
    dump = getattr(torch._C._distributed_c10d, "_dump_nccl_trace", None)
    return dump() if dump and _backends() else None


def abort() -> None:
    """Abort all communicators, so that no kernel waits for a peer any more: a process with such a one cannot end.

    One thread each: a communicator's kernel may not end before another's has.
    """
    threads = [Thread(target=backend.abort, daemon=True) for backend in _backends()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _backends() -> list[Any]:
    """NCCL's side of all groups that this process is in."""
    kind: Any = getattr(distributed_c10d, "ProcessGroupNCCL", None)
    found = []
    for group in list(distributed_c10d._world.pg_map) if kind and dist.is_initialized() else []:
        with contextlib.suppress(RuntimeError):  # a group of gloo's
            backend = group._get_backend(torch.device("cuda"))
            if isinstance(backend, kind) and backend not in found:
                found.append(backend)
    return found
