"""What TensorRT says while it works: its log, kept for error sentences, and its progress, which can stop it."""

import functools
import re
import threading
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

Progress = Callable[[str, float], bool | None]

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


@runtime_checkable
class Monitor(Protocol):
    """TensorRT's progress monitor: ``stopped`` ends the build at its next step; ``fault`` is what the caller raised."""

    stopped: bool
    fault: Exception | None


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


class Phases:
    """Nested phases of steps as one share done, which never falls."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str | None, int, int]] = {}  # Name: parent, steps, steps done.
        self._share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside ``parent``."""
        self._open[name] = (parent, max(steps, 1), 0)

    def step(self, name: str, index: int) -> float:
        """The share done, now that this step is."""
        if name in self._open:
            parent, steps, _ = self._open[name]
            self._open[name] = (parent, steps, index + 1)
        self._share = max(self._share, min(self._done(name), 1.0))
        return self._share

    def finish(self, name: str) -> None:
        """A phase ends, with or without all of its steps."""
        self._open.pop(name, None)

    def _done(self, name: str) -> float:
        """Share of the whole, seen from the innermost phase outwards."""
        share, within, seen = 0.0, name, set()
        while within in self._open and within not in seen:
            seen.add(within)
            parent, steps, done = self._open[within]
            share = (done + share) / steps
            if parent is None:
                return share
            within = parent
        return 0.0


def new_monitor(trt: Any, progress: Progress | None) -> Monitor:
    """A monitor that tells ``progress`` the phase and the share done, and stops the build when that says ``False``.

    TensorRT calls it from any thread, and swallows what it raises: an exception is kept for who asked for the build.
    """

    class Watched(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self.fault: Exception | None = None
            self._phases, self._lock = Phases(), threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                share = self._phases.step(phase_name, step)
                if progress is not None and not self.stopped:
                    try:
                        if progress(phase_name, share) is False:  # Never back to False: another thread sets it too.
                            self.stopped = True
                    except Exception as error:  # noqa: BLE001  # Whatever it is, the caller gets it.
                        self.stopped, self.fault = True, error
                return not self.stopped

    watched: Monitor = Watched()
    return watched
