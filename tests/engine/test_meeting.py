"""Where the processes of a job find each other."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from ds_bert.engine.meeting import connect, meet
from ds_bert.engine.process_group import start_process_group
from ds_bert.errors import StartError, UserError
from tests.support.processes import free_port
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


@pytest.mark.parametrize("wait", [lambda: meet(1, 2, TIMEOUT), lambda: connect(TIMEOUT)])
def test_nobody_waits_longer_than_the_timeout(nobody: str, wait: Callable[[], Any]) -> None:
    begin = time.monotonic()
    with pytest.raises(StartError, match=f"port {nobody} of 127.0.0.1: the launcher's first rank does not answer"):
        wait()
    assert TIMEOUT <= time.monotonic() - begin < TIMEOUT + MORE


def test_the_first_rank_waits_no_longer_than_the_timeout(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    begin = time.monotonic()
    with pytest.raises(StartError, match=r"the 2 processes have not met there: .*1/2 clients joined"):
        meet(0, 2, TIMEOUT)
    assert TIMEOUT <= time.monotonic() - begin < TIMEOUT + MORE


def test_half_a_launchers_environment_is_refused(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(UserError, match="has WORLD_SIZE, but not MASTER_ADDR"):
        start_process_group(toy_map(1, 2), TIMEOUT)
