"""SIGTERM, Ctrl-C and a closed terminal end a run after the step at hand, not in the middle of it."""

import signal
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """While entered, remembers the first stop signal; a second one ends the process at once.

    A terminal that is closed may say so twice (SIGHUP by the shell and by the system), and a session's end follows it
    with SIGTERM: after a SIGHUP the run still has its time. Under nohup SIGHUP is left ignored.
    """

    def __init__(self) -> None:
        """Nothing is caught before the context is entered."""
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        heard = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        for number in (signal.SIGTERM, signal.SIGINT, *[signal.SIGHUP] * heard):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.received = self.received or signal.SIGHUP
        elif self.received in (None, signal.SIGHUP):
            self.received = signal.Signals(number)
        else:
            raise KeyboardInterrupt
