"""A run's speed and time left, on a clock that the test turns."""

import time

import pytest

from byolt.training.logger import LogRecord
from byolt.training.rate_and_eta import Throughput


class Clock:
    """Stands still until it is turned on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)

    def turn(self, seconds: float) -> None:
        self.now_s += seconds


def throughput(start_step: int = 0) -> Throughput:
    """100 steps of 8 images, an evaluation every 30 steps and at the end: 30, 60, 90, 100."""
    return Throughput(steps=100, steps_per_evaluation=30, batch_size=8, start_step=start_step)


def test_an_evaluation_between_two_log_lines_is_no_time_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pace = Clock(monkeypatch), throughput()
    clock.turn(20 * 0.5)
    pace.measure(20)
    assert pace.images_per_s == pytest.approx(16)
    clock.turn(10 * 0.5)
    pace.waited(1.0)
    clock.turn(40)  # The evaluation after step 30, which has no log line.
    pace.evaluated(40)
    clock.turn(10 * 0.5)
    pace.waited(2.0)
    pace.measure(40)
    assert pace.images_per_s == pytest.approx(16)  # 20 steps of 8 images in 10 s.
    assert pace.data_wait == pytest.approx(0.3)  # 3 of 10 s, those before the evaluation too.


def test_time_left_counts_the_evaluations_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pace = Clock(monkeypatch), throughput()
    assert pace.seconds_left(0) == 0  # No rate is known.
    clock.turn(30 * 0.5)
    pace.measure(30)
    assert pace.seconds_left(30) == pytest.approx(70 * 0.5)  # None was made: no guess.
    clock.turn(40)
    pace.evaluated(40)
    assert pace.seconds_left(30, evaluated=True) == pace.seconds_left(30) - 40
    assert pace.seconds_left(31) == pytest.approx(69 * 0.5 + 3 * 40)  # At 60, 90 and 100.
    assert pace.seconds_left(90) == pytest.approx(10 * 0.5 + 2 * 40)  # That of step 90 comes after its log line.
    assert pace.seconds_left(91) == pytest.approx(9 * 0.5 + 40)
    assert (pace.seconds_left(100), pace.seconds_left(100, evaluated=True)) == (pytest.approx(40), 0)


def test_a_resumed_run_counts_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pace = Clock(monkeypatch), throughput(start_step=60)
    clock.turn(5.0)
    pace.measure(70)
    assert pace.images_per_s == pytest.approx(16)


def test_a_log_record_prints_as_one_line_of_progress() -> None:
    metrics = {"loss": 1.23456, "z_std_ratio": 0.5}
    record = LogRecord(20, 100, 2, 10, 1234.5, 0.25, 3725.0, metrics, {})
    line = "epoch 2/10  step 20/100  1,234 images/s  ETA 1:02:05  data wait 25%  loss 1.235  z-std 0.50"
    assert str(record) == line
    known = {"verdict": "healthy", "knn": 0.875}
    record = LogRecord(20, 100, 2, 10, 1234.5, 0.25, 3725.0, metrics, known)
    assert str(record) == f"{line}  verdict healthy  kNN 87.5%"
