"""The processes of a check: started plainly, ended in time, and asked where they hang."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.support.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
GRACE = 20.0  # seconds that the others have, after one has failed, to end by themselves
_POLL = 0.005
_LINES = 40  # of what a rank printed last


class CheckFailed(Exception):
    """A check has found a fault: a sentence, and what else helps to understand it."""


@dataclass(frozen=True)
class Bench:
    """What a check works with.

    Args:
        device: what is checked, "cuda" or "cpu".
        gpus: how many there are.
        gpu_memory: bytes of the smallest one; 0 without any.
        folder: for the files of all checks.
        deadline: on the monotonic clock, when the check's processes must have ended.
    """

    device: str
    gpus: int
    gpu_memory: int
    folder: Path
    deadline: float

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()


def environment(rank: int, count: int, port: int, device: str) -> dict[str, str]:
    """What a launcher sets for one of ``count`` processes of this machine, and what makes fp32 mean fp32 on a GPU."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_SIZE": count, "MASTER_PORT": port}
    fixed = {
        "MASTER_ADDR": "127.0.0.1",
        "DS_ACCELERATOR": device,
        "NVIDIA_TF32_OVERRIDE": "0",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    return dict(os.environ) | {name: str(value) for name, value in values.items()} | fixed


def first_gpu_only() -> dict[str, str]:
    """The environment in which all ranks share the first of the GPUs that this process may use."""
    return {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}


class Ranks:
    """Processes that run the same command line; leaving the with-block ends those that have not ended.

    Args:
        words: what `tests.gpu.traced` is to run.
        folder: where what each prints goes, as ``rank-<number>.txt``.
        device: "cuda" or "cpu".
        count: how many.
        extra: further variables of their environment.
    """

    def __init__(
        self, words: Sequence[object], folder: Path, device: str, count: int = 1, extra: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._logs = [folder / f"rank-{rank}.txt" for rank in range(count)]
        self.processes: list[subprocess.Popen] = []
        command = [sys.executable, "-m", "tests.gpu.traced", *map(str, words)]
        port = free_port()
        try:
            for rank, log in enumerate(self._logs):
                with open(log, "w") as file:
                    variables = environment(rank, count, port, device) | dict(extra or {})
                    process = subprocess.Popen(
                        command, env=variables, cwd=ROOT, stdout=file, stderr=file, start_new_session=True
                    )
                self.processes.append(process)
        except BaseException:
            self._kill()
            raise

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._kill()

    def _kill(self) -> None:
        """End the ranks with what they have started: each is a group of processes of its own."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def printed(self, rank: int) -> str:
        """What a rank has printed so far."""
        return self._logs[rank].read_text(errors="replace")

    def wait_for(self, happened: Callable[[], bool], deadline: float, what: str) -> None:
        """Wait until something has happened.

        Raises:
            CheckFailed: it did not in time, or a rank ended before.
        """
        while not happened():
            if any(process.poll() is not None for process in self.processes):
                raise CheckFailed(f"a rank ended before {what}\n{self.told()}")
            if time.monotonic() > deadline:
                raise CheckFailed(f"no {what} in time\n{self.told()}")
            time.sleep(_POLL)

    def succeed(self, deadline: float) -> None:
        """Wait until all have ended with status 0.

        Raises:
            CheckFailed: one did not; with its last words, or its stacks if it hangs.
        """
        while any(process.poll() is None for process in self.processes) and time.monotonic() < deadline:
            if any(process.poll() for process in self.processes):
                deadline = min(deadline, time.monotonic() + GRACE)
                self._wait(deadline)
                break
            time.sleep(_POLL)
        if any(process.poll() != 0 for process in self.processes):
            failed = [f"rank {rank} {self._state(rank)}" for rank in range(len(self.processes)) if self._state(rank)]
            raise CheckFailed(f"{', '.join(failed)}\n{self.told()}")

    def _wait(self, deadline: float) -> None:
        while any(process.poll() is None for process in self.processes) and time.monotonic() < deadline:
            time.sleep(_POLL)

    def _state(self, rank: int) -> str:
        """How a rank failed; "" if it did not."""
        status = self.processes[rank].poll()
        if status is None:
            return "hangs"
        if status < 0:
            return f"died of {signal.Signals(-status).name}"
        return f"ended with status {status}" if status else ""

    def told(self) -> str:
        """What the ranks that failed printed last; of those that hang, where they are."""
        hanging = [process for process in self.processes if process.poll() is None]
        for process in hanging:
            process.send_signal(signal.SIGUSR1)
        time.sleep(1.0 if hanging else 0.0)
        return "\n".join(
            f"--- rank {rank}, {self._state(rank)}, printed last:\n"
            + "\n".join(self.printed(rank).splitlines()[-_LINES:])
            for rank in range(len(self.processes))
            if self._state(rank)
        )


def run_ranks(
    bench: Bench, words: Sequence[object], folder: str, device: str = "", count: int = 1, shared: bool = False
) -> None:
    """Run one command line on ``count`` processes, all to end with status 0 before the bench's deadline.

    Args:
        bench: of the check.
        words: what `tests.gpu.traced` is to run.
        folder: of the bench's folder, where what they print goes.
        device: other than the bench's.
        count: how many.
        shared: whether all of them use the first GPU.

    Raises:
        CheckFailed: one did not.
    """
    extra = first_gpu_only() if shared else {}
    with Ranks(words, bench.folder / folder, device or bench.device, count, extra) as ranks:
        ranks.succeed(bench.deadline)
