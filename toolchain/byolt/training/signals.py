"""SIGTERM and Ctrl-C end a run after the step at hand, not in the middle of it."""

import signal
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """While entered, remembers the first stop signal; a second one ends the process at once."""

    def __init__(self) -> None:
        """Nothing is caught before the context is entered."""
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
