"""How sure accuracies on one test set are: of one model, and of two models on the same images."""

import numpy as np
import pytest

from byolt.evaluation.statistics import (
    PairedModels,
    accuracy_on_test_set,
    chance_on_test_set,
    difference_on_test_set,
    differences_over_seeds,
    mean_over_seeds,
)
from byolt.studies.results import ArmResults
from byolt_export.errors import InputError
from byolt_export.proof.task import paired_difference


def table(both: int, only_a: int, only_b: int, neither: int) -> PairedModels:
    """Two models with so many images of each kind."""
    right_a, right_b = [True, True, False, False], [True, False, True, False]
    counts = [both, only_a, only_b, neither]
    return difference_on_test_set(np.repeat(right_a, counts), np.repeat(right_b, counts))


def test_wilson_of_80_in_100_by_hand() -> None:
    # z^2 = 3.841459; centre = (0.8 + 3.841459 / 200) / (1 + 3.841459 / 100) = 0.8192073 / 1.0384146 = 0.7889019
    # half = 1.959964 / 1.0384146 * sqrt(0.16 / 100 + 3.841459 / 40000) = 1.8874581 * 0.0411830 = 0.0777311
    labels = np.arange(100) % 7
    found = accuracy_on_test_set(np.where(np.arange(100) < 80, labels, 7), labels)
    assert found == {"accuracy": 0.8, "interval_95": pytest.approx([0.7111708, 0.8666330], abs=1e-6), "n_test": 100}


def test_chance_is_the_most_frequent_class() -> None:
    assert chance_on_test_set(np.array([0, 1, 2, 3])) == 0.25
    assert chance_on_test_set(np.array([5, 5, 5, 0])) == 0.75


@pytest.mark.parametrize("n", [1, 2, 199])
def test_no_end_leaves_0_to_1(n: int) -> None:
    none, every = (accuracy_on_test_set(np.full(n, k), np.ones(n, np.int64))["interval_95"] for k in (0, 1))
    assert 0.0 <= none[0] < 1e-12
    assert 1.0 - 1e-12 < every[1] <= 1.0


def test_the_difference_by_hand() -> None:
    # 14 both, 5 only a, 0 only b, 22 neither, n = 41. Half an image in each cell: n = 43, 5.5 and 0.5.
    # centre = 5 / 43 = 0.1162791; half = 1.959964 sqrt(6 - 25 / 43) / 43 = 1.959964 * 2.3277897 / 43 = 0.1061020
    found = table(14, 5, 0, 22)
    assert found[:4] == (5, 0, 41, pytest.approx(5 / 41))
    assert (found.low, found.high) == pytest.approx((0.0101771, 0.2223811), abs=1e-6)
    # p = 2 * (1/2)^5: all five fall to one side.
    assert found.p == pytest.approx(0.0625)


def test_mcnemar_by_hand_and_the_other_way_round() -> None:
    # Of 9 that tell them apart at most 2 fall to one side: p = 2 * (1 + 9 + 36) / 2^9 = 92 / 512.
    found, other = table(40, 7, 2, 9), table(40, 2, 7, 9)
    assert found.p == other.p == pytest.approx(92 / 512)
    assert (other.difference, other.low, other.high) == pytest.approx((-found.difference, -found.high, -found.low))
    assert table(1, 4, 4, 1).p == 1


@pytest.mark.parametrize(
    "counts", [(10, 0, 0, 0), (0, 0, 0, 10), (0, 10, 0, 0), (0, 0, 10, 0), (1, 0, 0, 0), (5, 0, 0, 5)]
)
def test_extreme_tables_stay_in_range(counts: tuple[int, int, int, int]) -> None:
    found = table(*counts)
    assert -1 <= found.low < found.high <= 1
    assert found.low <= found.difference <= found.high
    if not found.only_a + found.only_b:
        assert found.p == 1


@pytest.mark.parametrize(("a", "b"), [(3, 4), (4, 3), (0, 0)])
def test_other_images_are_refused(a: int, b: int) -> None:
    with pytest.raises(InputError, match=f"McNemar: {a} images against {b}; evaluate both on the same, at least one"):
        difference_on_test_set(np.ones(a, dtype=bool), np.ones(b, dtype=bool))


def test_coverage_of_the_paired_interval() -> None:
    # Kinds of image at 0.70, 0.08, 0.05, 0.17: the correlation is 0.64, and without it the coverage is 0.998.
    counts = np.random.default_rng(11).multinomial(200, [0.70, 0.08, 0.05, 0.17], 1_000)
    found = [table(*row) for row in counts.tolist()]
    assert 0.94 <= np.mean([one.low <= 0.03 <= one.high for one in found]) <= 0.97


def test_intervals_of_accuracies_stay_within_0_and_100_per_cent() -> None:
    def arm(*accuracies: float) -> ArmResults:
        seeds = tuple(range(len(accuracies)))
        return ArmResults("byol", "", seeds, accuracies, ("finished",) * len(seeds))

    for accuracies, low, high in (((0.9, 1.0), None, 1.0), ((0.0, 0.1), 0.0, None), ((0.5, 0.6, 0.7), None, None)):
        summary, plain = arm(*accuracies).summary, mean_over_seeds(accuracies)
        assert summary is not None
        assert summary.low == (plain.low if low is None else low)
        assert summary.high == (plain.high if high is None else high)
    # Of 3 images all are right in one alone: (3.5 - 0.5) / 5 = 0.6; 1.96 sqrt(4 - 9 / 5) / 5 = 0.58 ends at 1.18.
    every, none = np.ones(3, bool), np.zeros(3, bool)
    assert paired_difference(every, none)[1] == (pytest.approx(0.0186, abs=1e-3), 1.0)
    assert paired_difference(none, every)[1] == (-1.0, pytest.approx(-0.0186, abs=1e-3))
    (found,) = differences_over_seeds([0.9, 0.1], {"simclr": [0.1, 0.2]}).values()
    assert (found.low, found.high) == (-1.0, 1.0)
