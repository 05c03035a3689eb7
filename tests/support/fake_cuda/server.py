"""Starting the process in which the fake device lies, and running functions in forks of it.

torch is loaded there once, with what stands in for the device before it; a fork costs milliseconds, and leaves nothing
behind for the next.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from tests.support.processes import Failed, Returned

_CONTEXT = multiprocessing.get_context("spawn")


class FakeCuda:
    """Runs functions where torch finds a fake CUDA device; leaving the with-block ends its process.

    Args:
        library: from `tests.support.fake_cuda.library`.
    """

    def __init__(self, library: str) -> None:
        self._connection, there = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(there,), daemon=True)
        before = os.environ.get("LD_PRELOAD")
        os.environ["LD_PRELOAD"] = f"{library}:{before}" if before else library
        try:
            self._process.start()
        finally:
            del os.environ["LD_PRELOAD"]
            if before is not None:
                os.environ["LD_PRELOAD"] = before
        there.close()

    def run(self, function: Callable[..., Any], *arguments: Any, timeout: float = 120) -> Any:
        """Return ``function(*arguments)``, called in a process of its own; both are importable by name.

        Raises:
            AssertionError: it raised, died, or took longer than ``timeout`` seconds; with its traceback.
        """
        self._connection.send((function, arguments))
        if not self._connection.poll(timeout):
            self._kill()
            raise AssertionError(f"still running after {timeout:.0f} s")
        outcome: Returned | Failed = self._connection.recv()
        if isinstance(outcome, Failed):
            raise AssertionError(str(outcome))
        return outcome.value

    def __enter__(self) -> "FakeCuda":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()
        self._kill()

    def _kill(self) -> None:
        """End the process and the fork of it that is at work; they are a session of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()


def _serve(connection: Connection) -> None:
    os.environ.update(DS_ACCELERATOR="cuda", OMP_NUM_THREADS="1")
    os.environ.pop("LD_PRELOAD", None)
    os.setsid()
    from tests.support.fake_cuda import processes, torch_cuda

    torch_cuda.install()
    processes.install()
    importlib.import_module("tests.support.preloaded")  # with the device there
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            _run(connection, function, arguments)
        _, status = os.waitpid(child, 0)
        if status:
            connection.send(Failed(f"died with status {status}"))


def _run(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    from tests.support.fake_cuda.device import FakeDevice

    try:
        with FakeDevice():
            outcome: Returned | Failed = Returned(function(*arguments))
    except BaseException:
        outcome = Failed(traceback.format_exc())
    connection.send(outcome)
    os._exit(0)
