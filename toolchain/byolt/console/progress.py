"""The one live line of a run; plain lines where there is no terminal."""

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from byolt.console.status import PLAIN_EVERY_S

if TYPE_CHECKING:
    from byolt.training.logger import LogRecord


class Progress:
    """Shows on stderr where a run is; entered for the length of the run, and called with its log records."""

    def __init__(self, console: Console | None = None) -> None:
        """Nothing is shown before the first record."""
        self.console = console or Console(stderr=True)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self._shown_s, self._shown_step = 0.0, -1

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def __call__(self, record: "LogRecord") -> None:
        """Renew the line, or print one where the last is old or this is the last step."""
        if self.console.is_terminal:
            self.live.start()
            self.live.update(Text(str(record), no_wrap=True, overflow="ellipsis"))
            return
        is_old, is_last = time.monotonic() - self._shown_s > PLAIN_EVERY_S, record.step == record.steps
        if record.step != self._shown_step and (is_old or is_last):
            self._shown_s, self._shown_step = time.monotonic(), record.step
            self.console.print(str(record), highlight=False, soft_wrap=True)
