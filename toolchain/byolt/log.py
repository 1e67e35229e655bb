"""Warnings of the logger ``byolt`` that a command gives once, however often their cause is met."""

import logging
from functools import cache


@cache
def warn_once(text: str) -> None:
    """A warning the first time that this process meets its cause, or since ``forget_warnings``."""
    logging.getLogger("byolt").warning("%s", text)


def forget_warnings() -> None:
    """A new command begins: what was told in the one before is told again."""
    warn_once.cache_clear()
