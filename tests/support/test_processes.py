import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import RanksFailed, run_on_ranks


def _rank(offset: int) -> int:
    return int(os.environ["RANK"]) + offset


def _raise() -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("no such thing")
    time.sleep(60)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    time.sleep(60)


def test_values_come_back_by_rank() -> None:
    assert run_on_ranks(_rank, 3, 10) == [10, 11, 12]


def test_a_failure_shows_where() -> None:
    begin = time.monotonic()
    with pytest.raises(RanksFailed, match=r"(?s)rank 0: still running.*in _raise.*rank 1: .*ValueError: no such thing"):
        run_on_ranks(_raise, 2)
    assert time.monotonic() - begin < 30


def test_a_death_is_told() -> None:
    with pytest.raises(RanksFailed, match="rank 0: died with exit code -9"):
        run_on_ranks(_die, 1)


def test_a_hang_shows_where() -> None:
    with pytest.raises(RanksFailed, match=r"(?s)rank 0: still running.*in _hang"):
        run_on_ranks(_hang, 1, timeout=1)


def _tell_and_hang(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(120)


@pytest.mark.slow
def test_ranks_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom tests.support.processes import Ranks\n"
        "from tests.support.test_processes import _tell_and_hang\n"
        f"Ranks(_tell_and_hang, 2, Path({str(tmp_path)!r})).wait(120, False)"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root) as starter:
        while len(list(tmp_path.iterdir())) < 2 and starter.poll() is None:
            time.sleep(0.05)
        starter.kill()
    pids = [path.name for path in tmp_path.iterdir()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
