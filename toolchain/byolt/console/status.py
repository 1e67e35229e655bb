"""What the library logs, as the command line shows it."""

import logging
import shutil
import sys
import time

from byolt.log import forget_warnings

PLAIN_EVERY_S = 15.0
"""Where there is no terminal, the time between two lines of progress."""


class StatusHandler(logging.Handler):
    """Records on stderr; those of progress renew one line in a terminal, elsewhere they come now and then.

    Live ones are for a terminal alone: they take that line until the next record, and leave nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown_s, self._live = 0.0, False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        line, share = record.getMessage(), getattr(record, "share", None)
        if getattr(record, "live", False):
            if sys.stderr.isatty():
                self._renew("" if share == 1 else line)
            return
        if self._live:
            self._renew("")
        if share is not None and sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{line}" + "\n" * (share == 1))
        elif share in (None, 1) or time.monotonic() - self._shown_s > PLAIN_EVERY_S:
            sys.stderr.write(f"{line}\n")
            if share is not None:
                self._shown_s = 0.0 if share == 1 else time.monotonic()
        sys.stderr.flush()

    def _renew(self, line: str) -> None:
        """A live line, cut where the terminal ends: one that wraps could not be taken back."""
        sys.stderr.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
        sys.stderr.flush()
        self._live = bool(line)


_HANDLER = StatusHandler()


def show_logs() -> None:
    """Show on stderr what ``byolt`` logs from now on."""
    forget_warnings()
    logger = logging.getLogger("byolt")
    logger.setLevel(logging.INFO)
    logger.addHandler(_HANDLER)
