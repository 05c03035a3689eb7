"""What a thread is at, as told from outside it."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from ds_bert.engine.heartbeat import occupation, was_waiting


def occupation_within(work: Callable[..., Any], *arguments: Any) -> str:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    time.sleep(0.2)
    assert thread.is_alive() and thread.ident
    return occupation(thread.ident)


def sleep() -> None:
    time.sleep(3)


def join() -> None:
    thread = threading.Thread(target=sleep, daemon=True)
    thread.start()
    thread.join()


def test_what_a_thread_does_of_its_own_is_told_by_its_line() -> None:
    assert occupation_within(sleep).startswith(f"{__file__}, line ")
    assert occupation_within(sleep).endswith(" (sleep)")
    assert not occupation_within(join)


def test_a_failure_is_told_apart_by_where_it_was_raised(tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError)) as waiting:
        dist.all_reduce(None)
    assert was_waiting(waiting.value)
    with pytest.raises(OSError) as own:
        (tmp_path / "none").read_text()
    assert not was_waiting(own.value)
