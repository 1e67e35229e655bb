"""stdout and stderr of a command: a reader that has gone or a terminal that was closed ends no work.

Everything that prints goes through ``sys.stdout`` and ``sys.stderr``: click, rich, logging, warnings. So the one place
that bears a lost reader is the file at the bottom of the two.
"""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, NamedTuple

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Unfailing(io.FileIO):
    """A descriptor whose ``write`` does not raise: after a lost reader the descriptor leads to ``os.devnull``."""

    def __init__(self, number: int, *, was_closed: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.was_closed, self.wrote = was_closed, False
        self.full: str | None = None

    def write(self, data: Any) -> int:
        """Bytes written or dropped: all of them."""
        self.wrote = True
        try:
            while (written := super().write(data)) is None:  # Another process made the pipe non-blocking.
                select.select([], [self], [])
        except OSError as error:
            if error.errno in _DISK_FULL:
                self.full = error.strerror  # There may be room for the next line.
            else:
                _lead_nowhere(self.fileno())
            return memoryview(data).nbytes
        return written


def keep_streams() -> None:
    """From now on no write to stdout or stderr raises, and no file that is opened takes the number of a closed one."""
    closed = [number for number in (0, 1, 2) if not _is_open(number)]
    for number in closed:
        _lead_nowhere(number)
    # One that was replaced, as tests and notebooks do, is theirs.
    if sys.stdout is sys.__stdout__ and (sys.stdout or 1 in closed):
        sys.stdout = _unfailing(sys.stdout, 1, was_closed=1 in closed)
    if sys.stderr is sys.__stderr__ and (sys.stderr or 2 in closed):
        sys.stderr = _unfailing(sys.stderr, 2, was_closed=2 in closed)


class Lost(NamedTuple):
    """What of stdout nobody can read, though nobody chose so: a reader that has gone is no loss."""

    words: str
    exit_code: int


def flush_streams() -> Lost | None:
    """Write out what is buffered; what was lost of stdout to a full disk, or because it was closed from the start."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # Of those that were replaced.
            stream.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Unfailing):
        return None
    if raw.full:
        return Lost(f"stdout could not be written ({raw.full}); make room, and give the command again", 1)
    return Lost("stdout is closed: the result is not shown", 0) if raw.was_closed and raw.wrote else None


def _unfailing(stream: Any, number: int, *, was_closed: bool) -> io.TextIOWrapper:
    """``stream`` (None of a closed one) over a file that does not fail; letters that it lacks become escapes."""
    encoding, errors, by_line = "utf-8", "backslashreplace", number == 2
    if stream is not None:
        with suppress(OSError):
            stream.flush()
        encoding, by_line = stream.encoding, stream.line_buffering or getattr(stream, "write_through", False)
        errors = "surrogateescape" if stream.errors == "surrogateescape" else errors
    buffer = io.BufferedWriter(_Unfailing(number, was_closed=was_closed))
    return io.TextIOWrapper(buffer, encoding, errors, newline="\n", line_buffering=by_line)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _lead_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:  # The lowest number that was free.
        os.dup2(nowhere, number)
        os.close(nowhere)
    os.set_inheritable(number, True)
