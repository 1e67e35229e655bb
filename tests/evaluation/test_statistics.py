import math
import re
import sys
from itertools import combinations, permutations

import numpy as np
import pytest
from scipy import stats

from byolt.evaluation.statistics import (
    Comparison,
    differences_over_seeds,
    holm,
    mean_over_seeds,
    rank_correlation,
    sentence,
)
from byolt_export.errors import InputError, MissingPart

STUDIES, SEEDS, METHODS = 300, 5, ("a", "b", "c", "d")
EFFECTS = np.array([0.03, 0.01, 0.0, -0.02])


def studies(effects: np.ndarray, *, seed: int) -> list[dict[str, Comparison]]:
    """Ours above each method by its effect; the seeds carry a common part that only pairing takes out."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0.5, 0.05, (STUDIES, 1, SEEDS))
    metrics = common + rng.normal(0, 0.01, (STUDIES, 1 + len(effects), SEEDS))
    metrics[:, 1:] -= effects[None, :, None]
    return [differences_over_seeds(one[0], dict(zip(METHODS, one[1:], strict=True))) for one in metrics.tolist()]


def test_summary_by_hand() -> None:
    # mean = (0.5 + 0.6 + 0.7) / 3 = 0.6; std = sqrt((0.01 + 0 + 0.01) / 2) = 0.1; t(2, 0.975) = 4.302653
    # half = 4.302653 * 0.1 / sqrt(3) = 0.2484138
    found = mean_over_seeds([0.5, 0.6, 0.7])
    assert found == pytest.approx((3, 0.6, 0.1, 0.3515862, 0.8484138), abs=1e-7)


def test_nothing_is_invented_where_no_spread_was_seen() -> None:
    n, mean, *rest = mean_over_seeds([0.5])
    assert (n, mean) == (1, 0.5)
    assert np.isnan(rest).all()
    same = mean_over_seeds([0.1, 0.1, 0.1])  # Their mean is 0.10000000000000002.
    assert same.std == 0
    assert math.isnan(same.low)
    assert math.isnan(same.high)


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [0.5, math.inf]])
def test_summary_of_no_number_is_refused(values: list[float]) -> None:
    with pytest.raises(InputError, match="summary: .*; evaluate"):
        mean_over_seeds(values)


def test_holm_by_hand() -> None:
    # Ordered: 0.005 * 4 = 0.02, 0.01 * 3 = 0.03, 0.03 * 2 = 0.06, 0.04 * 1 = 0.04, raised to the 0.06 before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)
    # 0.6 * 2 = 1.2, capped.
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    # Marcus, Peritz and Gabriel 1976: an adjusted p is the largest over all sets holding it of |set| * min(set).
    rng = np.random.default_rng(3)
    for _ in range(50):
        p = rng.uniform(size=5) ** 3
        sets = [s for size in range(1, 6) for s in combinations(range(5), size)]
        expected = [max(min(1.0, len(s) * p[list(s)].min()) for s in sets if i in s) for i in range(5)]
        assert holm(list(p)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bad", [-0.01, 1.01, math.nan])
def test_holm_refuses_what_is_no_probability(bad: float) -> None:
    with pytest.raises(InputError, match="Holm: a p value lies outside 0 to 1; leave out"):
        holm([0.5, bad])


OURS, BASE = [0.51, 0.51, 0.54, 0.56, 0.53], [0.5, 0.49, 0.51, 0.52, 0.48]


@pytest.mark.parametrize(("family", "t_quantile"), [(1, 2.7764451), (2, 3.4954059), (4, 4.3146560)])
def test_comparison_by_hand(family: int, t_quantile: float) -> None:
    # Differences 0.01 to 0.05: mean 0.03, std = sqrt((4 + 1 + 0 + 1 + 4) / 4) * 0.01 = 0.0158114
    # standard error = 0.0158114 / sqrt(5) = 0.00707107; quantile of t with 4 degrees at 1 - 0.05 / (2 family)
    found = differences_over_seeds(OURS, dict.fromkeys(METHODS[:family], BASE))["a"]
    half = t_quantile * 0.00707107
    assert found[:5] == pytest.approx((5, 0.03, 0.03 - half, 0.03 + half, family), abs=1e-7)
    # t = 0.03 / 0.00707107 = 4.242641, two-sided p with 4 degrees; all of the family alike, so Holm's is family * p.
    assert found.p == pytest.approx(0.0132356, abs=1e-7)
    assert found.p_holm == pytest.approx(family * 0.0132356, abs=4e-7)
    # d_z = 0.03 / 0.0158114 = 1.897367; J(4) = Gamma(2) / (sqrt(2) Gamma(1.5)) = 1 / (1.414214 * 0.886227) = 0.797885
    assert found.effect_size == pytest.approx(1.513880, abs=1e-6)


def test_the_other_way_round_is_the_same_with_the_sign_flipped() -> None:
    here, there = differences_over_seeds(OURS, {"a": BASE})["a"], differences_over_seeds(BASE, {"a": OURS})["a"]
    assert (there.difference, there.low, there.high) == pytest.approx((-here.difference, -here.high, -here.low))
    assert there.effect_size == pytest.approx(-here.effect_size)
    assert (here.verdict, there.verdict) == ("better", "worse")
    assert here.p == pytest.approx(there.p)


@pytest.mark.parametrize(
    ("ours", "p", "points"),
    [
        ([0.9, 0.8, 0.7], 0.0, "+10.0"),  # In floats 0.9 - 0.8 is not 0.8 - 0.7.
        ([0.7, 0.6, 0.5], 0.0, "-10.0"),
        ([0.8, 0.7, 0.6], 1.0, "+0.0"),
        ([0.8, 0.7, 0.1 + 0.5 + 1e-16], 1.0, "+0.0"),
    ],
)
def test_one_difference_at_all_seeds_has_no_interval_and_no_verdict(ours: list[float], p: float, points: str) -> None:
    found = differences_over_seeds(ours, {"a": [0.8, 0.7, 0.6]})["a"]
    assert (found.p, found.p_holm) == (p, p)
    assert np.isnan([found.low, found.high, found.effect_size]).all()
    assert found.verdict == "not told apart"
    expected = f"x and y are not told apart: {points} points at each of 3 seeds, and no spread to draw an interval from"
    assert sentence("x", "y", found) == expected


def test_two_seeds_have_an_interval_but_no_effect_size() -> None:
    # Differences 0.01 and 0.03: std = sqrt(0.0002) = 0.0141421, standard error 0.01; t(1, 0.975) = 12.706205
    found = differences_over_seeds([0.51, 0.53], {"a": [0.5, 0.5]})["a"]
    assert (found.low, found.high) == pytest.approx((0.02 - 0.12706205, 0.02 + 0.12706205), abs=1e-8)
    assert math.isnan(found.effect_size)


@pytest.mark.parametrize(
    ("ours", "others", "message"),
    [
        ([0.5, 0.6], {}, "comparison: there is nothing to compare with; name"),
        ([0.5, 0.6], {"simclr": [0.5]}, "simclr: 2 metrics of ours against 1; run both methods with the same seeds"),
        ([0.5], {"simclr": [0.5]}, "simclr: 1 paired seeds tell no spread; run at least 2"),
        ([], {"simclr": []}, "simclr: 0 paired seeds tell no spread; run at least 2"),
        ([0.5, 0.6], {"simclr": [0.5, math.nan]}, "simclr: a metric is not a finite number; evaluate that run again"),
        ([0.5, math.inf], {"simclr": [0.5, 0.6]}, "simclr: a metric is not a finite number; evaluate that run again"),
    ],
)
def test_what_cannot_be_paired_is_refused(ours: list[float], others: dict[str, list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        differences_over_seeds(ours, others)


def test_no_more_than_5_in_100_null_studies_tell_anything_apart() -> None:
    null_studies = studies(np.zeros(4), seed=0)
    # At level 0.05 each, four comparisons with one of ours would err in about 17 of 100.
    better = np.mean([any(one.verdict == "better" for one in study.values()) for study in null_studies])
    apart = np.mean([any(one.verdict != "not told apart" for one in study.values()) for study in null_studies])
    # 0.05 and 2.4 standard errors; half of the errors are in our favour.
    assert better <= 0.05
    assert 0.02 <= apart <= 0.08
    assert np.mean([min(one.p_holm for one in study.values()) <= 0.05 for study in null_studies]) <= 0.08


def test_all_four_intervals_hold_their_effects_at_once() -> None:
    held = [
        all(one.low <= effect <= one.high for one, effect in zip(study.values(), EFFECTS, strict=True))
        for study in studies(EFFECTS, seed=8)
    ]
    # Bonferroni is on the safe side, the more so as all four share ours, but hardly beyond 0.97.
    assert 0.92 <= np.mean(held) <= 0.99


def comparison(difference: float, low: float, high: float) -> Comparison:
    return Comparison(5, difference, low, high, 4, 0.001, 0.004, 3.0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((0.021, 0.004, 0.038), "byol is better than simsiam by 2.1 points [0.4, 3.8]"),
        ((-0.021, -0.038, -0.004), "byol is worse than simsiam by 2.1 points [0.4, 3.8]"),
        ((0.003, -0.012, 0.018), "byol and simsiam are not told apart: +0.3 points [-1.2, 1.8] holds 0"),
        ((-0.003, -0.018, 0.012), "byol and simsiam are not told apart: -0.3 points [-1.8, 1.2] holds 0"),
        # An end that is not 0 never prints as 0.
        ((0.021, 0.0002, 0.0418), "byol is better than simsiam by 2.10 points [0.02, 4.18]"),
        ((0.0209, -0.0002, 0.042), "byol and simsiam are not told apart: +2.09 points [-0.02, 4.20] holds 0"),
        ((-0.00001, -0.02, 0.02), "byol and simsiam are not told apart: +0.0 points [-2.0, 2.0] holds 0"),
        ((0.01, 0.0, 0.02), "byol and simsiam are not told apart: +1.0 points [0.0, 2.0] holds 0"),
    ],
)
def test_sentences(found: tuple[float, float, float], expected: str) -> None:
    assert sentence("byol", "simsiam", comparison(*found)) == expected


def test_no_sentence_takes_a_side_where_the_interval_holds_0() -> None:
    rng = np.random.default_rng(10)
    for _ in range(2_000):
        ends = rng.choice([-1, 0, 1], 2) * 10.0 ** rng.uniform(-9, 0, 2)
        low, high = float(ends.min()), float(ends.max())
        difference = (low + high) / 2
        said = sentence("x", "y", comparison(difference, low, high))
        printed = [float(end) for end in re.search(r"\[(\S+), (\S+)\]", said).groups()]
        holds = low <= 0 <= high
        assert ("better" in said or "worse" in said) != holds
        assert ("better" in said) == (low > 0)
        assert (printed[0] <= 0 <= printed[1]) == holds
        assert "-0.0]" not in said
        assert "[-0.0," not in said


def test_rank_correlation_by_hand() -> None:
    # Ranks 1 2 3 4 against 2 1 4 3: rho = 1 - 6 * (1 + 1 + 1 + 1) / (4 * 15) = 0.6
    # Sums of squared distances over the 24 orders, 1 - d/10: rho >= 0.6 at d = 0 (1), 2 (3), 4 (1): 5, and 5 below.
    found = rank_correlation([0.1, 0.2, 0.3, 0.4], [20, 10, 40, 30])
    assert found == pytest.approx((4, 0.6, 10 / 24), abs=1e-12)


def test_three_pairs_in_order_prove_little() -> None:
    # Of the 3! orders the same and the reversed one are as far from 0.
    assert rank_correlation([1, 2, 3], [4, 5, 6]) == pytest.approx((3, 1.0, 2 / 6))
    assert rank_correlation([1, 2, 3], [6, 5, 4]) == pytest.approx((3, -1.0, 2 / 6))


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_with_ties_equals_all_orders(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 4, 6) / 10, np.append(rng.integers(0, 3, 5), 7)
    found = rank_correlation(a.tolist(), b.tolist())
    rhos = [np.corrcoef(stats.rankdata(a), order)[0, 1] for order in permutations(stats.rankdata(b))]
    assert found.rho == pytest.approx(stats.spearmanr(a, b).statistic)
    assert found.p == pytest.approx(np.mean(np.abs(rhos) >= abs(found.rho) - 1e-9))


def test_nine_pairs_are_exact_and_ten_are_not() -> None:
    rng = np.random.default_rng(12)
    a, b = rng.normal(size=10), rng.normal(size=10)
    ten, nine = rank_correlation(a.tolist(), b.tolist()), rank_correlation(a[:9].tolist(), b[:9].tolist())
    expected = stats.spearmanr(a, b)
    assert ten == pytest.approx((10, expected.statistic, expected.pvalue))
    approximate = stats.spearmanr(a[:9], b[:9])
    assert nine.rho == pytest.approx(approximate.statistic)
    # Close to the t approximation, which errs by less than 0.02 at 9 pairs, but not it.
    assert 1e-6 < abs(nine.p - approximate.pvalue) < 0.02
    assert nine.p * math.factorial(9) == pytest.approx(round(nine.p * math.factorial(9)))


@pytest.mark.parametrize(
    ("ours", "published"),
    [([], []), ([0.5], [0.6]), ([0.5, 0.6], [0.6, 0.7]), ([1, 2, 3], [5, 5, 5]), ([1] * 12, range(12))],
)
def test_no_rank_correlation_without_ranks(ours: list[float], published: list[float]) -> None:
    n, *rest = rank_correlation(ours, published)
    assert n == len(ours)
    assert np.isnan(rest).all()


def test_rank_correlation_refuses_what_does_not_pair() -> None:
    with pytest.raises(InputError, match="rank correlation: 3 metrics against 2; give one of each for every method"):
        rank_correlation([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="rank correlation: a metric is not a finite number"):
        rank_correlation([1, 2, 3], [1, 2, math.nan])


def test_without_scipy_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(
        MissingPart, match=re.escape('SciPy is not installed, which tests differences: pip install "byolt[train]"')
    ):
        mean_over_seeds([0.5, 0.6])
    assert holm([0.5]) == [0.5]
