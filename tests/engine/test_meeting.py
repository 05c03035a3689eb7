"""Where the processes of a job find each other."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from ds_bert.engine import meeting
from ds_bert.engine.meeting import come, connect, meet
from ds_bert.engine.process_group import start_process_group
from ds_bert.errors import StartError, UserError
from tests.support.processes import Failed, Ranks, Returned, free_port
from tests.support.toy import toy_map

TIMEOUT, MORE = 2.0, 10.0  # seconds to wait, and that a job may take longer to end


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """A place where no store is served."""
    port = str(free_port())
    world = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    return port


KEPT: list[Any] = []
WAYS: dict[str, Callable[[], Any]] = {
    "no sign of life": lambda: meet(1, 2, 60, TIMEOUT),
    "not in all": lambda: meet(1, 2, TIMEOUT, 60),
    "once more": lambda: connect(TIMEOUT),
}


@pytest.mark.parametrize("way", WAYS)
def test_nobody_waits_longer_than_the_timeout(nobody: str, way: str) -> None:
    begin = time.monotonic()
    with pytest.raises(StartError, match=f"port {nobody} of 127.0.0.1: the launcher's first rank does not answer"):
        WAYS[way]()
    assert TIMEOUT <= time.monotonic() - begin < TIMEOUT + MORE


def test_half_a_launchers_environment_is_refused(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(UserError, match="has WORLD_SIZE, but not MASTER_ADDR"):
        start_process_group(toy_map(1, 2), TIMEOUT)


def attend(reading: dict[int, float | None], ready_timeout: float, start_timeout: float) -> str | None:
    """Come, read for so many seconds, and meet; None: never come. Return what it ended with; "" if all have met."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    seconds = reading.get(rank, 0.0)
    if seconds is None:
        return None
    meeting._FIRST_NOTE, meeting._INTERVAL = 0.5, 0.2
    come(rank, world_size, start_timeout)
    time.sleep(seconds)
    try:
        store = meet(rank, world_size, ready_timeout, start_timeout)
        KEPT.append(store)  # the others may still ask it
        store.set(f"seen by {rank}", "")
        store.wait([f"seen by {other}" for other in range(world_size)])
    except StartError as error:
        return str(error)
    return ""


def outcome(world_size: int, *arguments: Any, kill: int | None = None) -> dict[int, Any]:
    """What `attend` returned, by rank; ``kill`` names a rank that dies after a second."""
    with Ranks(attend, world_size, *arguments) as ranks:
        if kill is not None:
            time.sleep(1)
            os.kill(ranks.processes[kill].pid, signal.SIGKILL)
        ended = ranks.wait(40, stop_at_failure=False)
    assert all(isinstance(end, Returned) or rank == kill for rank, end in ended.items()), ended
    return {rank: end.value for rank, end in ended.items() if not isinstance(end, Failed)}


@pytest.mark.parametrize("reading", [{}, {0: 4.0, 2: 1.5}, {0: 0.4, 1: 4.0}])
def test_a_rank_that_reads_for_long_is_waited_for(reading: dict[int, float]) -> None:
    """However short the time without a sign of life is: it gives signs."""
    assert outcome(3, reading, 30.0, 2.5) == {0: "", 1: "", 2: ""}


@pytest.mark.parametrize(("absent", "said"), [([1], "of 3 ranks 1 has"), ([1, 2], "of 3 ranks 1, 2 have")])
def test_ranks_that_never_come_are_named(absent: list[int], said: str) -> None:
    found = outcome(3, dict.fromkeys(absent), 60.0, TIMEOUT)
    present = [rank for rank in range(3) if rank not in absent]
    sentences = {found[rank] for rank in present}
    assert len(sentences) == 1 and f"{said} not come, for the 2 s of --start_timeout" in sentences.pop()


@pytest.mark.slow
def test_a_rank_that_dies_while_it_reads_is_named() -> None:
    found = outcome(3, {2: 60.0}, 60.0, TIMEOUT, kill=2)
    assert set(found) == {0, 1} and found[0] == found[1]
    assert "of 3 ranks 2 on " in found[0] and "gave no further sign of life, for the 2 s" in found[0]


@pytest.mark.slow
def test_where_the_first_rank_dies_the_others_end_at_once() -> None:
    begin = time.monotonic()
    found = outcome(3, {0: 60.0}, 60.0, 30.0, kill=0)
    assert set(found) == {1, 2} and time.monotonic() - begin < 15
    assert all("the launcher's first rank has ended" in sentence for sentence in found.values())


@pytest.mark.slow
def test_a_rank_that_reads_for_ever_is_named_after_the_other_timeout() -> None:
    found = outcome(2, {1: 6.0}, TIMEOUT, 60.0)
    assert "of 2 ranks 1 on " in found[0] and "is still reading its model and data, after the time of" in found[0]
    assert "the launcher's first rank has ended" in found[1] or found[1] == found[0]
