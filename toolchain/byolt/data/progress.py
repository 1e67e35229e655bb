"""How far work on a set of images is, as records of the logger ``byolt``: a library prints nothing by itself."""

import logging
import time

QUIET_S = 2.0
"""Work that takes less time than this is not reported."""
EVERY_S = 0.25
_log = logging.getLogger("byolt")


class ImageProgress:
    """Called after each image; logs a line now and then at level INFO, with the share done as ``share``."""

    def __init__(self, name: str, verb: str = "decoding", *, live: bool = False) -> None:
        """``name``: what to call the set; ``verb``: what is done with it; ``live``: for a terminal alone."""
        self.name, self.verb, self.live = name, verb, live
        self._next_s, self._shown = time.monotonic() + QUIET_S, False

    def __call__(self, done: int, of: int) -> None:
        """``done`` of ``of`` images are through."""
        now_s = time.monotonic()
        if now_s >= self._next_s or (self._shown and done == of):
            self._next_s, self._shown = now_s + EVERY_S, True
            about = {"share": done / of, "live": self.live}
            _log.info("%s %s: %s/%s images", self.verb, self.name, f"{done:,}", f"{of:,}", extra=about)
