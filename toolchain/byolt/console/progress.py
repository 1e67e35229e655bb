"""The one live line of a run; plain lines where there is no terminal."""

import math
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_EVERY_S = 15.0
QUIET_S = 2.0
"""Decoding that takes less time than this is not reported."""


class Progress:
    """Shows where a run is.

    Rates are of the last report interval, so that they follow the machine, and of its steps alone; the time left is
    that of the steps and of the evaluations to come.
    """

    def __init__(
        self,
        console: Console,
        *,
        epochs: int,
        steps: int,
        steps_per_epoch: int,
        steps_per_evaluation: int,
        batch_size: int,
        start_step: int,
    ) -> None:
        """Prepare the line; nothing is shown before the context is entered."""
        self.console = console
        self.epochs, self.steps, self.steps_per_epoch, self.batch_size = epochs, steps, steps_per_epoch, batch_size
        self.steps_per_evaluation, self.evaluation_s = steps_per_evaluation, 0.0
        self.live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self.remarks: dict[str, str] = {}
        self._last_s, self._last_step, self._wait_s, self._shown_s = time.monotonic(), start_step, 0.0, 0.0
        self.images_per_s, self.data_wait = 0.0, 0.0

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        self._last_s = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def waited(self, seconds: float) -> None:
        """Count time in which the device had no batch."""
        self._wait_s += seconds

    def remark(self, metrics: dict[str, Any], seconds: float) -> None:
        """Keep the metrics of an evaluation in the line; the ``seconds`` it took are not the steps'."""
        self.remarks = {"verdict": str(metrics["verdict"])}
        if "knn" in metrics:
            self.remarks["kNN"] = f"{metrics['knn']:.1%}"
        self.evaluation_s = seconds
        self._last_s += seconds

    def report(self, step: int, metrics: dict[str, Any]) -> None:
        """Measure the interval since the last report and renew the line."""
        now_s = time.monotonic()
        elapsed_s = max(now_s - self._last_s, 1e-9)
        self.images_per_s = (step - self._last_step) * self.batch_size / elapsed_s
        self.data_wait = self._wait_s / elapsed_s
        self._last_s, self._last_step, self._wait_s = now_s, step, 0.0
        line = self._line(step, metrics)
        if self.live:
            self.live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif now_s - self._shown_s > PLAIN_EVERY_S or step == self.steps:
            self._shown_s = now_s
            self.console.print(line, highlight=False, soft_wrap=True)

    def left_s(self, step: int) -> float:
        """Seconds from ``step`` to the end: its steps at the last rate, its evaluations as long as the last one."""
        if not self.images_per_s:
            return 0.0
        # The last step has an evaluation whatever its number; that of ``step`` itself comes after the report.
        evaluations = math.ceil(self.steps / self.steps_per_evaluation) - max(0, step - 1) // self.steps_per_evaluation
        return (self.steps - step) * self.batch_size / self.images_per_s + evaluations * self.evaluation_s

    def _line(self, step: int, metrics: dict[str, Any]) -> str:
        parts = [
            f"epoch {min(step // self.steps_per_epoch + 1, self.epochs)}/{self.epochs}",
            f"step {step}/{self.steps}",
            f"{self.images_per_s:,.0f} images/s",
            f"ETA {duration(self.left_s(step))}",
            f"data wait {self.data_wait:.0%}",
            f"loss {metrics['loss']:.3f}",
            f"z-std {metrics['z_std_ratio']:.2f}",
            *(f"{name} {value}" for name, value in self.remarks.items()),
        ]
        return "  ".join(parts)


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Decoding:
    """One line on stderr while images are decoded or packed: renewed in a terminal, else a plain line now and then."""

    def __init__(self, name: str, verb: str = "decoding") -> None:
        """``name``: what to call the set; ``verb``: what is done with it."""
        self.name, self.verb = name, verb
        self._in_terminal = sys.stderr.isatty()
        self._every_s = 0.25 if self._in_terminal else PLAIN_EVERY_S
        self._shown_s = time.monotonic() - self._every_s + QUIET_S
        self._shown = False

    def __call__(self, done: int, of: int) -> None:
        """``done`` of ``of`` images are through; the last call ends the line."""
        now_s = time.monotonic()
        if now_s - self._shown_s < self._every_s and not (self._shown and done == of):
            return
        self._shown_s, self._shown = now_s, True
        line = f"{self.verb} {self.name}: {done:,}/{of:,} images"
        ends = "\n" if done == of or not self._in_terminal else ""
        sys.stderr.write(f"\r\x1b[K{line}{ends}" if self._in_terminal else f"{line}\n")
        sys.stderr.flush()
