"""A rank's silent death is noticed within seconds, whatever the timeout and whatever the others wait in."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist

from ds_bert.engine import process_group
from ds_bert.engine.process_group import start_process_group
from ds_bert.errors import UserError
from ds_bert.stage_map import StageMap
from ds_bert.training.lifecycle import failing_by_name
from tests.support.jobs import wait_for
from tests.support.processes import Failed, Ranks, Returned
from tests.support.toy import toy_map

TIMEOUT = 1800  # of the groups: nothing here may last as long
STEPS = 7
TWO, FOUR = toy_map(2, 1), toy_map(2, 2, [[3, 1], [2, 0]])
_FIRST, _SECOND = "10.211.7.1", "10.211.7.2"  # in networks that a test makes


def _sleep(seconds: float) -> None:
    """Wait as in a driver: without Python's lock, deaf to everything."""
    ctypes.CDLL(None).usleep(int(seconds * 1e6))


def _keep_lock(seconds: float) -> None:
    """Compute in one long call of C that keeps Python's lock."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def _wait_in_gloo(seconds: float) -> None:
    """Wait for all others, of which the first never comes."""
    if os.environ["LAUNCHER_RANK"] == os.environ["AWAITED"]:
        _sleep(seconds)
    dist.all_reduce(torch.zeros(1))


WAITS = {"sleep": _sleep, "gloo": _wait_in_gloo, "lock": _keep_lock}


def _wait(stage_map: StageMap, folder: Path, waits: dict[str, str], seconds: float, options: dict[str, Any]) -> None:
    """Wait on every rank: in what ``waits`` names for it, or for "*"."""
    rank = os.environ["LAUNCHER_RANK"] = os.environ["RANK"]
    if spaces := options.get("spaces"):
        _move_to(spaces[int(rank)])
    os.environ["AWAITED"] = waits.get("awaited", "")
    os.dup2(os.open(folder / f"{rank}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    silence, steps = options.get("silence", 30), options.get("steps", STEPS)
    grid = start_process_group(stage_map, TIMEOUT)
    if "abort_seconds" in options:
        process_group.dump_trace = lambda: b"last calls of " + rank.encode()
        process_group.abort = lambda: [(folder / f"{rank}.abort").touch(), time.sleep(options["abort_seconds"])]
    with failing_by_name(grid, heartbeat_timeout=silence, output_dir=options.get("output_dir")) as heartbeat:
        if steps:  # the engine exists
            heartbeat.steps_done = lambda: steps
        time.sleep(min(1, silence / 8) + 0.3)  # more than a beat: all know that these steps are done
        (folder / f"{rank}.ready").touch()
        WAITS[waits.get(rank, waits["*"])](seconds)


def _move_to(space: str) -> None:
    """Continue in a network of its own, as on another machine; the first rank's address there is `_FIRST`."""
    descriptor = os.open(f"/run/netns/{space}", os.O_RDONLY)
    assert ctypes.CDLL(None).setns(descriptor, 0) == 0
    os.environ.update(MASTER_ADDR=_FIRST, GLOO_SOCKET_IFNAME="eth0")


class Waiting(Ranks):
    """Ranks that have come as far as their wait."""

    def __init__(
        self, stage_map: StageMap, folder: Path, waits: dict[str, str], seconds: float = 600, **options: Any
    ) -> None:
        self.stage_map, self.folder, self.count = stage_map, folder, stage_map.num_stages * stage_map.num_replicas
        super().__init__(_wait, self.count, stage_map, folder, waits, seconds, options)

    def __enter__(self) -> "Waiting":
        wait_for(lambda: len(list(self.folder.glob("*.ready"))) == self.count)
        self.watchers = {rank: psutil.Process(self.processes[rank].pid).children()[0] for rank in range(self.count)}
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for watcher in self.watchers.values():
            if watcher.is_running():
                watcher.resume()
        assert not psutil.wait_procs(self.watchers.values(), timeout=25)[1], "watchers outlive their ranks"

    def name(self, rank: int) -> str:
        """As people know it."""
        return "rank {} (stage {}, replica {})".format(rank, *self.stage_map.position(rank))

    def said(self, rank: int) -> list[str]:
        """The sentences of a rank; it has printed nothing else than what begins as one."""
        printed = (self.folder / f"{rank}.err").read_text()
        assert "Traceback" not in printed, printed
        return re.findall(r"^error: (.*)", printed, re.MULTILINE)

    def check_end(self, victims: set[int], steps: int, how: str, within: float) -> float:
        """See that all others end in time with status 1, each with the one sentence; return the seconds it took."""
        begin = time.monotonic()
        outcomes = self.wait(within, stop_at_failure=False, among=set(range(self.count)) - victims)
        seconds = time.monotonic() - begin
        for rank, outcome in outcomes.items():
            assert isinstance(outcome, Failed) and outcome == "died with exit code 1", outcome
            names = " and ".join(f"{self.name(victim)}, after step {steps}," for victim in self.in_order(victims))
            assert self.said(rank) == [f"{self.name(rank)}: after step {steps}: {names} {how}"]
        print(f"{sorted(victims)} of {self.count}: all others ended after {seconds:.1f} s")
        return seconds

    def in_order(self, ranks: set[int]) -> list[int]:
        """As they stand in the grid."""
        return sorted(ranks, key=lambda rank: self.stage_map.grid_rank(rank))


@pytest.mark.parametrize(
    ("stage_map", "victim", "wait", "steps"),
    [
        (TWO, 0, "sleep", STEPS),
        (TWO, 1, "gloo", STEPS),
        (FOUR, 3, "sleep", 0),
        (FOUR, 0, "gloo", 0),
        *(
            pytest.param(stage_map, victim, wait, steps, marks=pytest.mark.slow)
            for stage_map in (TWO, FOUR)
            for victim in (0, 1)
            for wait in ("sleep", "gloo")
            for steps in (0, STEPS)
        ),
    ],
)
def test_a_killed_rank_ends_all_others_at_once(
    tmp_path: Path, stage_map: StageMap, victim: int, wait: str, steps: int
) -> None:
    with Waiting(stage_map, tmp_path, {"*": wait, "awaited": str(victim)}, steps=steps) as ranks:
        ranks.processes[victim].kill()
        ranks.check_end({victim}, steps, "died", within=5)


@pytest.mark.slow
@pytest.mark.parametrize("victims", [{0, 1}, {1, 2, 3}])
@pytest.mark.parametrize("wait", ["sleep", "gloo"])
def test_all_that_die_together_are_named(tmp_path: Path, victims: set[int], wait: str) -> None:
    with Waiting(FOUR, tmp_path, {"*": wait, "awaited": str(min(victims))}) as ranks:
        for victim in victims:
            ranks.processes[victim].kill()
        ranks.check_end(victims, STEPS, "died", within=5)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_dies_with_its_watcher_is_noticed_at_once(tmp_path: Path, victim: int) -> None:
    """As in a container that ends, or on a node that restarts."""
    with Waiting(FOUR, tmp_path, {"*": "sleep"}) as ranks:
        ranks.watchers[victim].kill()
        ranks.processes[victim].kill()
        ranks.check_end({victim}, STEPS, "died", within=5)


@pytest.mark.slow
def test_a_rank_whose_watcher_alone_dies_ends_with_all(tmp_path: Path) -> None:
    with Waiting(TWO, tmp_path, {"*": "sleep"}) as ranks:
        ranks.watchers[1].kill()
        outcomes = ranks.wait(5, stop_at_failure=False)
        assert [str(outcome) for outcome in outcomes.values()] == ["died with exit code 1"] * 2
        assert "its watcher is gone" in ranks.said(1)[0] and f"{ranks.name(1)}, after step 7, died" in ranks.said(0)[0]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 3])
@pytest.mark.parametrize("with_watcher", [True, False])
def test_a_silent_rank_is_given_up_after_the_heartbeats_own_limit(
    tmp_path: Path, victim: int, with_watcher: bool
) -> None:
    """Stopped with its watcher, it is as a node without power: no connection is closed, and nobody answers."""
    silence = 1.5
    with Waiting(FOUR, tmp_path, {"*": "sleep"}, silence=silence) as ranks:
        os.kill(ranks.processes[victim].pid, signal.SIGSTOP)
        if with_watcher:
            ranks.watchers[victim].suspend()
        seconds = ranks.check_end({victim}, STEPS, "has not answered for 1.5 s", within=silence + 5)
        assert seconds > silence / 2
        if not with_watcher:
            ranks.processes[victim].join(5)
            assert ranks.processes[victim].exitcode == -signal.SIGKILL


@pytest.fixture
def two_networks() -> Iterator[list[str]]:
    """Two networks with a cable between them."""
    if not shutil.which("ip") or os.geteuid():
        pytest.skip("networks cannot be made here: needed are root and the command ip")
    spaces = [f"dsbert{os.getpid()}{side}" for side in "ab"]
    try:
        for space in spaces:
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", spaces[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", spaces[1])
        for space, address in zip(spaces, (_FIRST, _SECOND), strict=True):
            _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
        yield spaces
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "delete", space], check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("wait", ["sleep", "gloo"])
def test_a_cut_cable_ends_both_sides(tmp_path: Path, two_networks: list[str], wait: str) -> None:
    waits = {"*": wait, "awaited": "1"}
    with Waiting(TWO, tmp_path, waits, silence=2, spaces=two_networks) as ranks:
        _ip("-n", two_networks[0], "link", "set", "eth0", "down")
        outcomes = ranks.wait(7, stop_at_failure=False)
        assert [str(outcome) for outcome in outcomes.values()] == ["died with exit code 1"] * 2
        assert not psutil.wait_procs(ranks.watchers.values(), timeout=3)[1]
        for rank in (0, 1):
            silent = f"{ranks.name(1 - rank)}, after step {STEPS}, has not answered for 2 s"
            assert ranks.said(rank) == [f"{ranks.name(rank)}: after step {STEPS}: {silent}"]


@pytest.mark.slow
def test_all_ranks_stopped_and_continued_go_on(tmp_path: Path) -> None:
    """As by Ctrl-Z and `fg`, long after."""
    with Waiting(FOUR, tmp_path, {"*": "sleep"}, seconds=4, silence=1) as ranks:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in ranks.processes:
                os.kill(process.pid, number)
                time.sleep(0.05)
            time.sleep(2.5 if number == signal.SIGSTOP else 0)
        outcomes = ranks.wait(10, stop_at_failure=False)
        assert all(isinstance(outcome, Returned) for outcome in outcomes.values()), outcomes


@pytest.mark.parametrize("busy", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_rank_that_keeps_pythons_lock_is_not_taken_for_dead(tmp_path: Path, busy: str) -> None:
    with Waiting(TWO, tmp_path, {"*": "sleep", busy: "lock"}, seconds=3.5, silence=1) as ranks:
        outcomes = ranks.wait(10, stop_at_failure=False)
        assert all(isinstance(outcome, Returned) for outcome in outcomes.values()), outcomes


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_keeps_pythons_lock_is_ended_by_its_watcher(tmp_path: Path, victim: int) -> None:
    """It cannot end itself, nor speak; its sentence is printed all the same."""
    other = 1 - victim
    with Waiting(TWO, tmp_path, {"*": "sleep", str(other): "lock"}) as ranks:
        ranks.processes[victim].kill()
        outcome = ranks.wait(10, stop_at_failure=False, among={other})[other]
        assert outcome == "died with exit code -9"
        wait_for(lambda: bool(ranks.said(other)), 2)
        name = f"{ranks.name(victim)}, after step {STEPS}, died"
        assert ranks.said(other) == [f"{ranks.name(other)}: after step {STEPS}: {name}"]


@pytest.mark.parametrize(("has_folder", "abort_seconds"), [(True, 0), pytest.param(False, 60, marks=pytest.mark.slow)])
def test_the_last_words_are_nccls_calls_and_an_abort_that_may_hang(
    tmp_path: Path, has_folder: bool, abort_seconds: int
) -> None:
    options = {"abort_seconds": abort_seconds, "output_dir": str(tmp_path / "out") if has_folder else None}
    with Waiting(TWO, tmp_path, {"*": "sleep"}, **options) as ranks:
        ranks.processes[1].kill()
        ranks.check_end({1}, STEPS, "died", within=10)
    assert (tmp_path / "0.abort").exists()
    (path,) = re.findall(r"NCCL's last calls of .*: (.*)", (tmp_path / "0.err").read_text())
    assert Path(path).parent.parent.parent == (tmp_path if has_folder else Path(tempfile.gettempdir()))
    assert Path(path).name == "nccl_trace_rank_0" and Path(path).read_bytes() == b"last calls of 0"


def _refuse(who: str) -> str:
    rank = int(os.environ["RANK"])
    grid = start_process_group(TWO, TIMEOUT)
    try:
        with failing_by_name(grid):
            time.sleep(0.3 * rank)
            if who in ("all", str(rank)):
                raise UserError("map.json: no such file")
            _sleep(600)
    except UserError as error:
        return str(error)
    return ""


def test_a_mistake_that_all_ranks_meet_is_told_by_each() -> None:
    with Ranks(_refuse, 2, "all") as ranks:
        outcomes = ranks.wait(10, stop_at_failure=False)
    assert [outcome.value for outcome in outcomes.values() if isinstance(outcome, Returned)] == [
        "map.json: no such file"
    ] * 2


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_mistake_that_one_rank_meets_ends_the_others_once_it_was_told(who: int) -> None:
    with Ranks(_refuse, 2, str(who)) as ranks:
        begin = time.monotonic()
        outcomes = ranks.wait(20, stop_at_failure=False)
        assert 9 < time.monotonic() - begin < 15
    assert isinstance(outcomes[who], Returned) and outcomes[1 - who] == "died with exit code 1"
