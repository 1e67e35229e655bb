"""How quick a run is, and how long it still takes."""

import math
import time


class Throughput:
    """Rates of the last interval between two log lines, so that they follow the machine, and of its steps alone."""

    def __init__(self, *, steps: int, steps_per_evaluation: int, batch_size: int, start_step: int) -> None:
        """The first interval begins now, before step ``start_step`` of ``steps``."""
        self.steps, self.steps_per_evaluation, self.batch_size = steps, steps_per_evaluation, batch_size
        self.images_per_s = self.data_wait = self.evaluation_s = 0.0
        self._last_s, self._last_step, self._wait_s = time.monotonic(), start_step, 0.0

    def waited(self, seconds: float) -> None:
        """Count time in which the device had no batch."""
        self._wait_s += seconds

    def evaluated(self, seconds: float) -> None:
        """Take an evaluation out of the interval: the ``seconds`` it took are not the steps'."""
        self.evaluation_s = seconds
        self._last_s += seconds

    def measure(self, step: int) -> None:
        """End the interval after ``step`` steps, and begin the next."""
        now_s = time.monotonic()
        elapsed_s = max(now_s - self._last_s, 1e-9)
        self.images_per_s = (step - self._last_step) * self.batch_size / elapsed_s
        self.data_wait = self._wait_s / elapsed_s
        self._last_s, self._last_step, self._wait_s = now_s, step, 0.0

    def seconds_left(self, step: int, *, evaluated: bool = False) -> float:
        """Seconds to the end after ``step`` steps: steps at the last rate, evaluations as long as the last one.

        ``evaluated`` says that the evaluation due after ``step``, if there is one, has been made.
        """
        if not self.images_per_s:
            return 0.0
        last = step == self.steps and evaluated  # The last step has an evaluation whatever its number.
        made = (step if evaluated else step - 1) // self.steps_per_evaluation
        evaluations = 0 if last else math.ceil(self.steps / self.steps_per_evaluation) - made
        return (self.steps - step) * self.batch_size / self.images_per_s + evaluations * self.evaluation_s


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
