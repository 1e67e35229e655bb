"""TensorRT's log, kept for error sentences."""

import functools
import re
from typing import Any, Protocol, runtime_checkable

# Said on every machine without a GPU, whatever went on; the driver's absence has its own sentence.
_NO_DRIVER = re.compile(
    r"cudaError 35|CUDA driver version is insufficient|Error Code 1: Cuda Runtime \(In \w+ at \S+\)"
)
_PLACE = re.compile(
    r"^\[[^\]]*\]\s*|^I\w+::\w+:\s*|\s*\(?In \w+ at /\S+?\)?$|\s+In \w+ at /[^\s)]+|^Error Code \d+:\s*"
)


@runtime_checkable
class Log(Protocol):
    """TensorRT's logger: keeps errors."""

    errors: list[str]

    def reason(self) -> str:
        """The first error, in one line: those after it follow from it."""


def shared_log(trt: Any) -> Log:
    """The process's one logger of a flavour, emptied; it prints nothing.

    One, since TensorRT warns that it ignores others as long as any object with the first one lives.
    """
    log = _log(trt)
    log.errors.clear()
    return log


@functools.cache
def _log(trt: Any) -> Log:

    class Kept(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # Not super(): the binding's own rule for its trampolines.
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(msg)

        def reason(self) -> str:
            said = [line for line in map(plain, self.errors) if line]
            return said[0] if said else "it does not say why"

    kept: Log = Kept()
    return kept


def plain(message: str) -> str:
    """The first line of a log entry without codes and places in its source; empty for chatter about absent GPUs."""
    if _NO_DRIVER.search(message):
        return ""
    line = (message.strip().splitlines() or [""])[0]
    while (shorter := _PLACE.sub("", line)) != line:
        line = shorter
    if line.startswith("Internal Error (") or line.startswith("API Usage Error ("):
        line = line.partition("(")[2].removesuffix(")")
    return line.strip().rstrip(". ")
