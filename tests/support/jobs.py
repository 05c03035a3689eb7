"""Run a job's `main` on forked ranks: what a launcher does, without the seconds that imports take."""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ds_bert.errors import exit_on_user_error
from tests.support.processes import Failed, Ranks, Returned, run_on_ranks
from tests.support.refusal import contents

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Ended:
    """How one rank's process ended."""

    status: int
    opened: list[str]
    """Files opened for reading or writing, through Python or mapped into memory."""


class Job:
    """A job on ``world_size`` forked ranks, in the making.

    Args:
        job: its file in this repository.
        folder: where what the ranks print goes.
        words: the command line.
        world_size: number of ranks.
    """

    def __init__(self, job: str, folder: Path, words: Sequence[object], world_size: int = 1) -> None:
        self.folder, self.world_size = folder, world_size
        folder.mkdir(parents=True, exist_ok=True)
        self.ranks = Ranks(_run, world_size, job, [str(word) for word in words], str(folder))

    def signal(self, rank: int, number: int) -> None:
        """Send a signal to one rank."""
        os.kill(self.ranks.processes[rank].pid, number)

    def wait(self, timeout: float = 60) -> dict[int, Returned | Failed]:
        """Wait for the end of all ranks and clean up."""
        with self.ranks:
            return self.ranks.wait(timeout, stop_at_failure=False)

    def printed(self) -> str:
        """What all ranks printed so far."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.txt")))


class Pretraining(Job):
    """Pre-training, in the making."""

    def __init__(self, folder: Path, words: Sequence[object], world_size: int = 1) -> None:
        super().__init__("pipelines/pretrain.py", folder, words, world_size)


def pretrain(folder: Path, words: Sequence[object], world_size: int = 1, timeout: float = 60) -> list[Ended]:
    """Pre-train and return how each rank ended; what they print goes to ``folder``."""
    return run_job("pipelines/pretrain.py", folder, words, world_size, timeout)


def run_job(job: str, folder: Path, words: Sequence[object], world_size: int = 1, timeout: float = 60) -> list[Ended]:
    """Run the job of a file of this repository and return how each rank ended; what they print goes to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    return run_on_ranks(_run, world_size, job, [str(word) for word in words], str(folder), timeout=timeout)


def printed_after_a_death(job: str, folder: Path, words: Sequence[object], builder: str) -> str:
    """Kill rank 0 of two while rank 1 is still building its engine; return what rank 1 prints at its end.

    Args:
        job, folder, words: as for `Job`.
        builder: full name of the function (or class) that builds.
    """
    folder.mkdir(parents=True)
    ranks = Ranks(_run_and_never_build, 2, job, [str(word) for word in words], str(folder), builder)
    with ranks:
        wait_for((folder / "building").exists)
        wait_for(lambda: _is_watched(ranks.processes[1].pid))
        ranks.processes[0].kill()
        outcome = ranks.wait(10, stop_at_failure=False, among={1})[1]
    assert outcome == "died with exit code 1", outcome
    return (folder / "1.err.txt").read_text()


def _is_watched(pid: int) -> bool:
    """Whether the watcher of a rank has found the others'."""
    watchers = psutil.Process(pid).children()
    return any(line.status == psutil.CONN_ESTABLISHED for watcher in watchers for line in watcher.net_connections())


def _run_and_never_build(job: str, words: list[str], folder: str, builder: str) -> Ended:
    if os.environ["RANK"] == "1":
        module, _, name = builder.rpartition(".")
        setattr(importlib.import_module(module), name, lambda *_: (Path(folder, "building").touch(), time.sleep(600)))
    return _run(job, words, folder)


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something has happened."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def _run(job: str, words: list[str], folder: str) -> Ended:
    opened: list[str] = []
    sys.addaudithook(lambda event, details: opened.append(str(details[0])) if event == "open" else None)
    for descriptor, kind in ((1, "out"), (2, "err")):
        path = os.path.join(folder, f"{os.environ['RANK']}.{kind}.txt")
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    main = _main_of(Path(job))
    sys.argv = [Path(job).name, *words]
    status = exit_on_user_error(main)
    sys.stdout.flush()
    with open("/proc/self/maps") as maps:
        opened += [line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")]
    return Ended(status, opened)


def _main_of(job: Path) -> Callable[[], int]:
    spec = importlib.util.spec_from_file_location(job.stem, REPOSITORY / job)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[job.stem] = module
    spec.loader.exec_module(module)
    return module.main


def assert_stays_as_it_is(out: Path, throughput_run: Callable[[list[str]], str]) -> None:
    """Check that a real run's folder is equal to the byte after throughput runs with its flags and those given."""
    before, beside = contents(out), out.with_name(f"{out.name}.throughput")
    for more in ([], ["--resume"], ["--overwrite_output_dir"]):
        printed = throughput_run([*more, "--num_minibatches", "4"])
        assert contents(out) == before and f"figures: {beside / 'summary.json'}" in printed
        assert [path.name for path in beside.iterdir()] == ["summary.json"]
        assert json.loads((beside / "summary.json").read_text())["samples_per_second"] > 0
    assert len(list(out.parent.glob(f"{out.name}.*"))) == 3  # with those that were moved aside


def without_folder(words: Sequence[object], here: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Leave ``--output_dir`` out of a job's words, and go to a new folder ``here`` with a log that it could empty."""
    here.mkdir()
    (here / "log.jsonl").write_text('{"step": 1}\n')
    monkeypatch.chdir(here)
    place = words.index("--output_dir")
    return [*words[:place], *words[place + 2 :]]
