import pytest
from scipy.stats import binomtest

from byolt.evaluation.intervals import wilson_95


def test_wilson_of_80_in_100_by_hand() -> None:
    # z^2 = 3.841459; centre = (0.8 + 3.841459 / 200) / (1 + 3.841459 / 100) = 0.8192073 / 1.0384146 = 0.7889019
    # half = 1.959964 / 1.0384146 * sqrt(0.16 / 100 + 3.841459 / 40000) = 1.8874581 * 0.0411830 = 0.0777311
    low, high = wilson_95(0.8, 100)
    assert low == pytest.approx(0.7111708, abs=1e-6)
    assert high == pytest.approx(0.8666330, abs=1e-6)


@pytest.mark.parametrize(("correct", "n"), [(1, 2), (0, 10), (10, 10), (3, 7), (4_550, 10_000), (9_999, 10_000)])
def test_wilson_equals_scipy(correct: int, n: int) -> None:
    expected = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_95(correct / n, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("n", range(1, 200, 7))
def test_no_end_leaves_0_to_1(n: int) -> None:
    assert 0.0 <= wilson_95(0.0, n)[0] < 1e-12
    assert 1.0 - 1e-12 < wilson_95(1.0, n)[1] <= 1.0
