"""What the logger ``byolt`` says once a command, however often its cause is met."""

import logging
from functools import cache


@cache
def warn_once(text: str) -> None:
    """A warning the first time that this process meets its cause, or since ``forget_warnings``."""
    logging.getLogger("byolt").warning("%s", text)


@cache
def inform_once(text: str) -> None:
    """The same for what is no fault and yet is to be known."""
    logging.getLogger("byolt").info("%s", text)


def forget_warnings() -> None:
    """A new command begins: what was told in the one before is told again."""
    warn_once.cache_clear()
    inform_once.cache_clear()
