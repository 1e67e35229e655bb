"""Learning rate and tau at steps whose value follows by hand."""

import math

import pytest

from byolt.training.schedules import learning_rate, tau


def rate(step: int) -> float:
    return learning_rate(step, steps=110, warmup_steps=10, peak=0.8)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),  # The warm-up starts at 0.
        (5, 0.4),  # Half way up.
        (10, 0.8),  # The peak, cos(0) = 1.
        (60, 0.4),  # Half way down: (cos(pi / 2) + 1) / 2 = 1 / 2.
        (35, 0.8 * (math.cos(math.pi / 4) + 1) / 2),  # A quarter of the way down.
        (110, 0.0),
    ],
)
def test_learning_rate_by_hand(step: int, expected: float) -> None:
    assert rate(step) == pytest.approx(expected, abs=1e-12)


def test_learning_rate_without_warmup_starts_at_the_peak() -> None:
    assert learning_rate(0, steps=10, warmup_steps=0, peak=0.3) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.996),
        (50, 0.998),  # cos(pi / 2) = 0: 1 - 0.004 / 2.
        (25, 1 - 0.004 * (math.sqrt(0.5) + 1) / 2),
        (100, 1.0),
    ],
)
def test_tau_by_hand(step: int, expected: float) -> None:
    assert tau(step, steps=100, tau_base=0.996) == pytest.approx(expected, abs=1e-15)
