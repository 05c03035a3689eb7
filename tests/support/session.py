"""One Python process that runs one job after another, as a notebook's does."""

import asyncio
import contextlib
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.distributed as dist

from ds_bert import jobs
from ds_bert.checkpoint.folders import checkpoints
from ds_bert.checkpoint.tensors import TensorFolder, has_tensors
from ds_bert.engine.module import StageModule
from ds_bert.training.log import read_log
from tests.support.processes import run_on_ranks

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Run:
    """A job of a session.

    Args:
        name: of its folder.
        job: one of `jobs.JOBS`.
        arguments: without ``output_dir``.
        interruption: what its third step raises in place of a step (in few-shot learning, the first method after its
            end), or the signal that comes before it, if anything.
        ends: the exit status, or the name of the exception that it ends with.
    """

    name: str
    job: str
    arguments: dict[str, Any] = field(default_factory=dict)
    interruption: type[BaseException] | signal.Signals | None = None
    ends: int | str = 0


def in_main_thread(work: Callable[[], None]) -> None:
    work()


def in_a_notebooks_manner(work: Callable[[], None]) -> None:
    """In another thread than the main one, from a running event loop, with streams that no terminal is behind."""
    sys.argv = ["ipykernel_launcher.py", "-f", "kernel.json", "--max_steps", "nonsense"]
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()
    torch.set_grad_enabled(False)

    async def cell() -> None:
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(work)
        await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(cell()))
    thread.start()
    thread.join()


MANNERS = {"main": in_main_thread, "notebook": in_a_notebooks_manner}


def run_session(folder: Path, runs: Sequence[Run], manner: str = "main", timeout: float = 120) -> list[int | str]:
    """Run jobs in one new process without a launcher; return how each ended."""
    return run_on_ranks(_session, 1, str(folder), list(runs), manner, timeout=timeout)[0]


def _session(folder: str, runs: Sequence[Run], manner: str) -> list[int | str]:
    for name in LAUNCHERS:
        os.environ.pop(name, None)
    matplotlib.use("svg")  # another than a job would choose
    ends: list[int | str] = []
    problems: list[BaseException] = []

    def work() -> None:
        try:
            before = _state()
            for run in runs:
                ends.append(_end(run, Path(folder)))
                assert _state() == before, (run.name, before, _state())
        except BaseException as problem:
            problems.append(problem)

    MANNERS[manner](work)
    if problems:
        raise problems[0]
    return ends


def _end(run: Run, folder: Path) -> int | str:
    with _interrupted(run.interruption):
        try:
            return jobs.run(run.job, **run.arguments, output_dir=folder / run.name)
        except BaseException as error:
            sys.last_value = error  # as a notebook keeps it, and all that it leads to
            print(f"{run.name}: {type(error).__name__}: {error}", file=sys.__stderr__)
            return type(error).__name__


@contextlib.contextmanager
def _interrupted(interruption: type[BaseException] | signal.Signals | None) -> Any:
    from ds_bert.meta.few_shot import FewShot
    from ds_bert.training.loop import Training

    step, learn = Training._step, FewShot.learn

    def interrupted(self: Training, stop: Any) -> None:
        if interruption and self.engine.steps_done == 2:
            if not isinstance(interruption, signal.Signals):
                raise interruption("step 3")
            os.kill(os.getpid(), interruption)
        step(self, stop)

    def learn_and_be_interrupted(self: FewShot, *arguments: Any) -> Any:
        learned = learn(self, *arguments)
        if isinstance(interruption, type):
            raise interruption("after a method")
        return learned

    Training._step, FewShot.learn = interrupted, learn_and_be_interrupted  # type: ignore[method-assign]
    yield
    Training._step, FewShot.learn = step, learn  # type: ignore[method-assign]


def _state() -> dict[str, Any]:
    """What a job must leave as it found it."""
    return {
        "backend of charts": matplotlib.get_backend(),
        "engines": sum(issubclass(type(thing), StageModule) for thing in gc.get_objects()),
        "environment": {name: os.environ.get(name) for name in LAUNCHERS},
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "threads": torch.get_num_threads(),
        "in a group": dist.is_initialized(),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "arguments": list(sys.argv),
        "gradients": torch.is_grad_enabled(),
    }


def numbers(out: Path) -> dict[str, Any]:
    """All that a run has computed, to the bit: what its log has of each step, its results, weights and moments."""
    kept = ("train/loss", "train/grad_norm", "eval/")
    found: dict[str, Any] = {
        f"step {entry['step']}": {key: value for key, value in entry.items() if key.startswith(kept)}
        for entry in read_log(out)
    }
    found |= {
        path.name: path.read_text() for name in ("eval_results.json", "results.md") if (path := out / name).exists()
    }
    for checkpoint in checkpoints(out):
        for tensors in (
            TensorFolder(checkpoint, kind) for kind in ("model", "optimizer") if has_tensors(checkpoint, kind)
        ):
            found |= {f"{checkpoint.name}/{name}": tensors.read(name).numpy().tobytes() for name in tensors.names()}
    return found
