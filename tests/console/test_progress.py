"""The progress line's speed and time left, on a clock that the test turns."""

import time
from io import StringIO

import pytest
from rich.console import Console

from byolt.console.progress import Progress

FIGURES = {"loss": 1.0, "z_std_ratio": 0.5}
VERDICT = {"verdict": "healthy", "knn": 0.5}


class Clock:
    """Stands still until it is turned on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)

    def turn(self, seconds: float) -> None:
        self.now_s += seconds


def progress(start_step: int = 0) -> Progress:
    """100 steps of 8 images, 10 an epoch, an evaluation every 3 epochs and at the end: steps 30, 60, 90, 100."""
    return Progress(
        Console(file=StringIO()),
        epochs=10,
        steps=100,
        steps_per_epoch=10,
        steps_per_evaluation=30,
        batch_size=8,
        start_step=start_step,
    )


def test_an_evaluation_between_two_reports_is_no_time_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shown = Clock(monkeypatch), progress()
    with shown:
        clock.turn(20 * 0.5)
        shown.report(20, FIGURES)
        assert shown.images_per_s == pytest.approx(16)
        clock.turn(10 * 0.5)
        shown.waited(1.0)
        clock.turn(40)  # The evaluation after step 30, which is no log step.
        shown.remark(VERDICT, 40)
        clock.turn(10 * 0.5)
        shown.waited(2.0)
        shown.report(40, FIGURES)
    assert shown.images_per_s == pytest.approx(16)  # 20 steps of 8 images in 10 s.
    assert shown.data_wait == pytest.approx(0.3)  # 3 of 10 s, those before the evaluation too.


def test_time_left_counts_the_evaluations_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shown = Clock(monkeypatch), progress()
    with shown:
        clock.turn(30 * 0.5)
        shown.report(30, FIGURES)
        assert shown.left_s(30) == pytest.approx(70 * 0.5)  # None was seen: no guess.
        clock.turn(40)
        shown.remark(VERDICT, 40)
        assert shown.left_s(31) == pytest.approx(69 * 0.5 + 3 * 40)  # At 60, 90 and 100.
        assert shown.left_s(90) == pytest.approx(10 * 0.5 + 2 * 40)  # That of step 90 comes after its report.
        assert shown.left_s(91) == pytest.approx(9 * 0.5 + 40)
        assert shown.left_s(100) == pytest.approx(40)


def test_a_resumed_run_counts_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shown = Clock(monkeypatch), progress(start_step=60)
    with shown:
        clock.turn(5.0)
        shown.report(70, FIGURES)
    assert shown.images_per_s == pytest.approx(16)
