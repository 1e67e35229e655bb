"""How far TensorRT's build is, and the way to stop it."""

import threading
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

BuildProgress = Callable[[str, float], bool | None]


@runtime_checkable
class Monitor(Protocol):
    """TensorRT's progress monitor: ``stopped`` ends the build at its next step; ``fault`` is what the caller raised."""

    stopped: bool
    fault: Exception | None


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
        """Share of the whole, counted from the innermost phase outwards."""
        share, within, seen = 0.0, name, set()
        while within in self._open and within not in seen:
            seen.add(within)
            parent, steps, done = self._open[within]
            share = (done + share) / steps
            if parent is None:
                return share
            within = parent
        return 0.0


def new_monitor(trt: Any, progress: BuildProgress | None) -> Monitor:
    """A monitor that calls ``progress`` with the phase and the share done, and stops the build on ``False``.

    TensorRT calls it from any thread, and swallows what it raises: an exception is kept for the caller of the build.
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
