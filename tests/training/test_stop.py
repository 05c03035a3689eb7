"""SIGINT and SIGTERM as votes."""

import os
import signal

import pytest

from ds_bert import errors
from ds_bert.errors import StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_vote_until_released(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    wish = StopSignal()
    try:
        assert StopSignal.agreed(wish.votes()) == 0
        os.kill(os.getpid(), number)
        assert StopSignal.agreed(wish.votes()) == number
    finally:
        wish.release()
    assert signal.getsignal(number) is before


def test_all_agree_on_one_signal_whoever_got_which() -> None:
    assert StopSignal.agreed([0.0, 3.0]) == signal.SIGTERM
    assert StopSignal.agreed([1.0, 0.0]) == StopSignal.agreed([2.0, 1.0]) == signal.SIGINT


def test_the_same_press_twice_is_one_and_a_later_one_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    wish = StopSignal()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert StopSignal.agreed(wish.votes()) == signal.SIGINT
        monkeypatch.setattr(errors, "_ONE_PRESS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        wish.release()
