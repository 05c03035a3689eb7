"""SIGINT and SIGTERM as a wish to stop, which all ranks grant together at the end of an optimizer step."""

import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ONE_PRESS = 2.0  # seconds within which a launcher may hand on the same Ctrl-C again


class StopSignal:
    """Remembers the first SIGINT or SIGTERM; a second SIGINT, seconds later, interrupts at once.

    Only the main thread can take signals: in another one, nothing is remembered.

    A signal may reach one rank only, or each in another step. So ranks vote in every step on the signals they had when
    the step began, and all see the same sums: they end after the same step.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        is_main = threading.current_thread() is threading.main_thread()
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS if is_main}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > _ONE_PRESS:
            raise KeyboardInterrupt

    def votes(self) -> list[float]:
        """This process's votes, to be added up over all processes."""
        return [float(self.number == number) for number in _SIGNALS]

    @staticmethod
    def divide(sums: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
        """Divide what was added up of votes and of what was sent behind them."""
        return sums[: len(_SIGNALS)], sums[len(_SIGNALS) :]

    @staticmethod
    def agreed(votes: Sequence[float]) -> int:
        """The signal that the added votes are for, or 0."""
        return next((int(number) for number, vote in zip(_SIGNALS, votes, strict=True) if vote > 0), 0)

    def release(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            # Python does not know a handler that another language has set, nor how to set it again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
