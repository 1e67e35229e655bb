"""What takes long and has no steps to count, as a record of the logger ``byolt`` that a terminal alone shows."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger("byolt")


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say what is being done while it is, in a terminal alone: the line is gone when it is done."""
    _log.info("%s ...", what, extra={"live": True})
    try:
        yield
    finally:
        _log.info("", extra={"live": True})
