"""Calls spread over processes, with the results in the order of the calls."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from ds_bert.errors import UserError

_IN_FLIGHT = 3  # items of each worker
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_state: Any = None  # a worker process's own


def map_in_order(
    call: Callable[[Any, _Item], _Result],
    items: Iterable[_Item],
    num_workers: int,
    flag: str,
    start: Callable[..., Any],
    *args: Any,
) -> Iterator[_Result]:
    """Yield ``call(state, item)`` for each item, with ``state = start(*args)`` made once in each process.

    With one worker all is done in this process. Memory holds a few items of each worker.

    Args:
        call: a function of a module, as the workers import it.
        items: read as workers get free.
        num_workers: processes.
        flag: what sets their number, for the message when one of them is killed.
        start: a function of a module, likewise.
        args: what it is given.

    Raises:
        UserError: a call raises one, or a worker is killed.
    """
    if num_workers == 1:
        state = start(*args)
        yield from (call(state, item) for item in items)
        return
    context = multiprocessing.get_context("spawn")  # libraries with threads, as tokenizers, must not be forked
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (start, args))
    waiting: deque[Future[_Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_call, call, item))
            if len(waiting) >= num_workers * _IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for want of memory; run the same command again, with a smaller "
            f"{flag}, and it goes on where it stopped"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(start: Callable[..., Any], args: tuple[Any, ...]) -> None:
    global _state
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends the workers in order
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _state = start(*args)


def _leave_with_parent() -> None:
    """End this worker when its parent is killed: waiting for work, it would not notice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(call: Callable[[Any, _Item], _Result], item: _Item) -> _Result:
    return call(_state, item)
