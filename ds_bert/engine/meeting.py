"""Where the processes of a job find each other: a store that the launcher's first rank serves."""

import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist

from ds_bert.errors import StartError

_PAUSE = 0.05  # seconds between two attempts to connect


def meet(launcher_rank: int, world_size: int, timeout_seconds: float) -> dist.Store:
    """Serve the store, or become a client of it, and wait for all others.

    Raises:
        StartError: the port is in use, or the processes have not met in time.
    """
    deadline, (host, port) = time.monotonic() + timeout_seconds, meeting_address()
    if launcher_rank:
        _await_server(deadline)
    try:
        left = timedelta(seconds=max(1.0, deadline - time.monotonic()))
        return next(dist.rendezvous("env://", launcher_rank, world_size, timeout=left))[0]
    except dist.DistError as error:
        if "EADDRINUSE" in str(error):
            raise StartError(
                f"port {port} of {host}: in use by another job, or what is left of one; end that, or give the "
                "launcher another --master_port"
            ) from None
        cause = str(error).partition("\n")[0]
        raise StartError(f"port {port} of {host}: the {world_size} processes have not met there: {cause}") from None


def connect(timeout_seconds: float) -> dist.Store:
    """Become a client of the store once more, by a connection that nothing else blocks.

    Raises:
        StartError: it is no longer served.
    """
    _await_server(time.monotonic() + timeout_seconds)
    timeout = timedelta(seconds=timeout_seconds)
    return dist.TCPStore(*meeting_address(), is_master=False, wait_for_workers=False, timeout=timeout)


def meeting_address() -> tuple[str, int]:
    """Host and port of the store, as the launcher chose them."""
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def _await_server(deadline: float) -> None:
    """Wait until the store is served: its own client begins anew after its timeout, and so waits up to three times."""
    host, port = meeting_address()
    while True:
        try:
            socket.create_connection((host, port), max(0.1, deadline - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise StartError(
                    f"port {port} of {host}: the launcher's first rank does not answer there ({error}); see whether it "
                    "has failed, and whether all nodes reach that address and port (--master_addr, --master_port)"
                ) from None
            time.sleep(_PAUSE)
