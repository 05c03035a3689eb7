"""Run a function on N real processes: started cheaply, never left behind.

A server process imports the heavy modules once; every rank is forked from it in milliseconds.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import random
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.support.preloaded"])
_A_MOMENT = 5.0  # seconds for a process to end by itself, and leave what a measurement of coverage wants


class RanksFailed(AssertionError):
    """Some ranks raised, died or hung; the message holds what is known of each."""


def run_on_ranks(function: Callable[..., Any], world_size: int, *arguments: Any, timeout: float = 60) -> list[Any]:
    """Call ``function(*arguments)`` on ``world_size`` processes; return what each gave, by launcher rank.

    Args:
        function: importable by name; finds RANK, WORLD_SIZE, MASTER_ADDR and the like in its environment.
        world_size: number of processes.
        arguments: the same for all processes.
        timeout: seconds for everything.

    Raises:
        RanksFailed: with the traceback of each rank that raised or was still running.
    """
    with Ranks(function, world_size, *arguments) as ranks:
        outcomes = ranks.wait(timeout, stop_at_failure=True)
    failures = {rank: outcome for rank, outcome in outcomes.items() if not isinstance(outcome, Returned)}
    if failures:
        raise RanksFailed("\n".join(f"rank {rank}: {outcome}" for rank, outcome in sorted(failures.items())))
    return [outcomes[rank].value for rank in range(world_size)]


class Returned:
    """A rank's function came to its end."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Failed(str):
    """A rank raised, died or hung: the text says which, with a traceback where there is one."""


class Ranks:
    """Processes that run one function; leaving the with-block ends those that have not ended.

    Ranks are ``processes[rank].pid`` and ``.kill()`` away from a test of failures.
    """

    def __init__(self, function: Callable[..., Any], world_size: int, *arguments: Any) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._connections: dict[Connection, int] = {}
        self._returned = [False] * world_size
        self.processes = []
        port = free_port()
        for rank in range(world_size):
            here, there = _CONTEXT.Pipe()
            environment = _environment(rank, world_size, port)
            process = _CONTEXT.Process(
                target=_run, args=(function, arguments, environment, there, str(self._stack_file(rank))), daemon=True
            )
            process.start()
            there.close()
            self.processes.append(process)
            self._connections[here] = rank

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for connection in self._connections:
            connection.close()  # who has returned ends now
        for process, returned in zip(self.processes, self._returned, strict=True):
            if returned:
                process.join(_A_MOMENT)
            process.kill()
            process.join()
        self._folder.cleanup()

    def _stack_file(self, rank: int) -> Path:
        return Path(self._folder.name) / str(rank)

    def wait(
        self, timeout: float, stop_at_failure: bool, among: Iterable[int] | None = None
    ) -> dict[int, Returned | Failed]:
        """Wait for ranks; return the outcome of each.

        Args:
            timeout: in seconds; what still runs then has failed.
            stop_at_failure: whether to wait for the others, after a failure, for no more than two seconds.
            among: the ranks waited for; None: all.
        """
        deadline = time.monotonic() + timeout
        outcomes: dict[int, Returned | Failed] = {}
        ranks = set(range(len(self.processes)) if among is None else among)
        waiting = {connection: rank for connection, rank in self._connections.items() if rank in ranks}
        while waiting and (ready := wait(list(waiting), max(0.0, deadline - time.monotonic()))):
            for connection in ready:
                rank = waiting.pop(connection)
                outcomes[rank] = self._outcome(connection, rank)
                if stop_at_failure and isinstance(outcomes[rank], Failed):
                    deadline = min(deadline, time.monotonic() + 2)
        stacks = self._stacks(list(waiting.values()))
        return outcomes | {rank: Failed(f"still running at\n{stack}") for rank, stack in stacks.items()}

    def _outcome(self, connection: Connection, rank: int) -> Returned | Failed:
        try:
            outcome = connection.recv()
            self._returned[rank] = isinstance(outcome, Returned)
            return outcome
        except EOFError:
            self.processes[rank].join()
            return Failed(f"died with exit code {self.processes[rank].exitcode}")

    def _stacks(self, ranks: list[int]) -> dict[int, str]:
        """Where hung ranks are."""
        for rank in ranks:
            os.kill(self.processes[rank].pid, signal.SIGUSR1)
        time.sleep(0.3 if ranks else 0)
        return {rank: self._stack_file(rank).read_text() for rank in ranks}


def _run(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    environment: Mapping[str, str],
    parent: Connection,
    stack_file: str,
) -> None:
    with open(stack_file, "w") as stack:
        faulthandler.register(signal.SIGUSR1, file=stack)
        os.environ.update(environment)
        end = Thread(target=_exit_with_parent, args=(parent,))
        end.start()
        try:
            import torch

            torch.set_num_threads(1)
            parent.send(Returned(function(*arguments)))
        except BaseException:
            parent.send(Failed(traceback.format_exc()))
            os._exit(1)
        end.join()  # others may still be talking to this process, which serves them addresses if it is rank 0


def _exit_with_parent(parent: Connection) -> None:
    """End this process when the one that started it is through with it, or gone."""
    with contextlib.suppress(EOFError, OSError):
        parent.recv()
    os._exit(0)


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_SIZE": world_size, "MASTER_PORT": port}
    fixed = {"MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return {name: str(value) for name, value in values.items()} | fixed


def free_port() -> int:
    """Choose a port below those that systems give out by themselves: nobody else takes it until rank 0 does."""
    while True:
        port = random.SystemRandom().randrange(20000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
