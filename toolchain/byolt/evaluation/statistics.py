"""How sure an accuracy is: one function for each question that is asked of it. Accuracies are shares in [0, 1].

``accuracy_on_test_set``: of one model, over the draw of the test images; Wilson's interval.
``difference_on_test_set``: of two models on the same test images; McNemar's test, Agresti and Min's interval.
``mean_over_seeds``: of one method, over the draw of the seed; Student's interval.
``differences_over_seeds``: of methods paired by seed; the paired t test, simultaneous intervals.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from byolt_export.errors import InputError, MissingPart
from byolt_export.proof.task import paired_difference

ALPHA = 0.05
"""How often all intervals of a family together may miss."""

ROUNDING = 1e-12
"""Metrics closer than this share of the largest of them differ by rounding alone."""

EXACT_PAIRS = 9
"""Pairs up to which all orders are counted: 9! = 362,880."""


class Summary(NamedTuple):
    """Mean of one metric over n seeds; ``std`` has the divisor n - 1, ``low`` to ``high`` is Student's 95 % interval.

    It covers the draw of the seed, not that of the test images. One seed tells no spread: ``std`` and the interval
    are NaN. Where all seeds agree ``std`` is 0 and the interval NaN, since a width of 0 would claim certainty.
    """

    n: int
    mean: float
    std: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Ours minus theirs, paired by seed, as one of a family of comparisons.

    ``low`` to ``high`` is the paired t interval at the level 1 - 0.05 / family (Bonferroni): all intervals of the
    family hold their true differences at once in at least 95 % of studies. The verdict is drawn from it alone.
    ``p`` is that of the two-sided paired t test. ``p_holm`` is the same adjusted over the family by Holm's sharper
    method: it may lie below 0.05 where the interval holds 0.
    ``effect_size`` is Cohen's d_z (mean of the differences / their std) times Hedges' small-sample correction; it
    needs 3 seeds and is NaN below.

    Where the difference is the same at every seed the t statistic has no denominator. ``p`` is then its limit, 0, or
    1 where the difference is 0. That limit proves nothing: a few test images, or one run counted twice, bring it
    about. So the interval and the effect size are NaN and the verdict stays "not told apart".
    """

    n: int
    difference: float
    low: float
    high: float
    family: int
    p: float
    p_holm: float
    effect_size: float

    @property
    def verdict(self) -> Literal["better", "worse", "not told apart"]:
        """Ours against theirs: a direction only where the whole simultaneous interval lies on one side of 0."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "not told apart"


class PairedModels(NamedTuple):
    """Two models on the same n images; ``only_a`` and ``only_b`` count those that one alone has right.

    ``difference`` is the accuracy of a minus that of b, ``low`` to ``high`` its 95 % interval over the draw of
    images, the one that a bundle's files are judged by. ``p`` is McNemar's, exact and two-sided.
    """

    only_a: int
    only_b: int
    n: int
    difference: float
    low: float
    high: float
    p: float


class RankCorrelation(NamedTuple):
    """Spearman's rho of n pairs and its two-sided p; both NaN below 3 pairs or where one side is constant."""

    n: int
    rho: float
    p: float


def accuracy_on_test_set(predicted: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Share of correct predictions (N,), with N and Wilson's 95 % interval; JSON-able.

    Wilson 1927: unlike ``p -/+ z sqrt(p (1-p) / n)`` it keeps its coverage near 0 and 1 and for small n. It covers the
    draw of test images, not the seed of training.
    """
    right = predicted == labels
    interval = scipy_stats().binomtest(int(right.sum()), len(labels)).proportion_ci(0.95, method="wilson")
    ends = [float(interval.low), float(interval.high)]
    return {"accuracy": float(right.mean()), "interval_95": ends, "n_test": len(labels)}


def chance_on_test_set(labels: npt.NDArray[np.int64]) -> float:
    """Accuracy of naming the most frequent class every time: 1 / C where all C classes are as frequent."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def mean_over_seeds(values: Sequence[float]) -> Summary:
    """Mean, spread and 95 % interval of one metric over seeds.

    Raises:
        InputError: There is no value, or one is not finite.
    """
    metrics = _finite("summary", values)
    n = len(metrics)
    if not n:
        raise InputError("summary: there is no value; evaluate at least one seed")
    mean = float(metrics.mean())
    if not _differ(metrics, np.abs(metrics).max()):
        return Summary(n, mean, 0.0 if n > 1 else math.nan, math.nan, math.nan)
    interval = scipy_stats().ttest_1samp(metrics, 0).confidence_interval(1 - ALPHA)
    return Summary(n, mean, float(metrics.std(ddof=1)), float(interval.low), float(interval.high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values of a family, in the order given.

    Holm 1979, step-down: the i-th smallest of m times m - i + 1, never below a smaller one's, at most 1. Rejecting
    those up to 0.05 rejects any falsely in at most 5 % of families, however the tests depend on each other.

    Raises:
        InputError: A value lies outside [0, 1] or is NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError("Holm: a p value lies outside 0 to 1; leave out comparisons without one")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]


def differences_over_seeds(ours: Sequence[float], others: Mapping[str, Sequence[float]]) -> dict[str, Comparison]:
    """Our metrics against each other method's, as one family.

    Args:
        ours: One metric a seed.
        others: The same of each other method, its seeds in the same order.

    Returns:
        A comparison under each name, in the order given.

    Raises:
        InputError: There is nothing to compare with, fewer than two pairs, unequal counts or a metric not finite.
    """
    if not others:
        raise InputError("comparison: there is nothing to compare with; name at least one other method")
    found = {name: _compared(name, ours, theirs, len(others)) for name, theirs in others.items()}
    adjusted = holm([one.p for one in found.values()])
    return {name: one._replace(p_holm=p) for (name, one), p in zip(found.items(), adjusted, strict=True)}


def sentence(ours: str, theirs: str, c: Comparison) -> str:
    """A comparison in words, the difference and its interval in points.

    After "worse by" the interval is that of the gap, ours below theirs. Decimals are added until no end prints as 0
    that is not 0: else an interval that excludes 0 would read as one that holds it.
    """
    if math.isnan(c.low):
        same = f"{_points(c.difference, 1, '+')} points at each of {c.n} seeds"
        return f"{ours} and {theirs} are not told apart: {same}, and no spread to draw an interval from"
    if c.verdict == "not told apart":
        return f"{ours} and {theirs} are not told apart: {in_points(c.difference, c.low, c.high, '+')} holds 0"
    gap = c[1:4] if c.verdict == "better" else (-c.difference, -c.high, -c.low)
    return f"{ours} is {c.verdict} than {theirs} by {in_points(*gap)}"


def in_points(difference: float, low: float, high: float, sign: str = "") -> str:
    """``2.1 points [0.5, 3.7]``: decimals are added until no end prints as 0 that is not 0."""
    digits = 1
    while any(end != 0 and float(_points(end, digits)) == 0 for end in (low, high)):
        digits += 1
    return f"{_points(difference, digits, sign)} points [{_points(low, digits)}, {_points(high, digits)}]"


def difference_on_test_set(correct_a: npt.NDArray[np.bool_], correct_b: npt.NDArray[np.bool_]) -> PairedModels:
    """Two models by which of the same images they have right.

    McNemar 1947 in its exact form: images that tell the models apart fall to either with probability 1/2.

    Args:
        correct_a, correct_b: Whether each image is classified right, (N,), in the same order.

    Raises:
        InputError: Unequal numbers of images, or none.
    """
    n = len(correct_a)
    if not 0 < n == len(correct_b):
        raise InputError(f"McNemar: {n} images against {len(correct_b)}; evaluate both on the same, at least one")
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((~correct_a & correct_b).sum())
    apart = only_a + only_b
    p = float(scipy_stats().binomtest(only_a, apart, 0.5).pvalue) if apart else 1.0
    difference, (low, high) = paired_difference(correct_a, correct_b)
    return PairedModels(only_a, only_b, n, difference, max(-1.0, low), min(1.0, high), p)


def rank_correlation(ours: Sequence[float], published: Sequence[float]) -> RankCorrelation:
    """Whether our metrics order the methods as published ones do: Spearman's rho, ties at their mean rank.

    Up to 9 pairs p is the share of all n! orders whose rho is at least as far from 0; above that it is by Student's t
    with n - 2 degrees of freedom.

    Raises:
        InputError: Unequal counts, or a metric not finite.
    """
    a, b = _finite("rank correlation", ours), _finite("rank correlation", published)
    n = len(a)
    if len(b) != n:
        raise InputError(f"rank correlation: {n} metrics against {len(b)}; give one of each for every method")
    if n < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return RankCorrelation(n, math.nan, math.nan)
    stats = scipy_stats()
    found = stats.spearmanr(a, b)
    rho = float(found.statistic)
    if n > EXACT_PAIRS:
        return RankCorrelation(n, rho, float(found.pvalue))
    # Twice a rank less the mean is a whole number: equal correlations then compare as equal.
    a, b = 2 * stats.rankdata(a) - n - 1, 2 * stats.rankdata(b) - n - 1
    every_order: dict[str, Any] = {"permutation_type": "pairings", "n_resamples": math.inf, "vectorized": True}
    found = stats.permutation_test(
        (b,), lambda b, axis: np.abs((a * b).sum(axis)), alternative="greater", **every_order
    )
    return RankCorrelation(n, rho, float(found.pvalue))


def _compared(name: str, ours: Sequence[float], theirs: Sequence[float], family: int) -> Comparison:
    """One comparison of a family of accuracies, its interval within -1 and 1; ``p_holm`` still unadjusted."""
    a, b = _finite(name, ours), _finite(name, theirs)
    n = len(a)
    if len(b) != n:
        raise InputError(f"{name}: {n} metrics of ours against {len(b)}; run both methods with the same seeds")
    if n < 2:
        raise InputError(f"{name}: {n} paired seeds tell no spread; run at least 2, better 5")
    scale, differences = max(np.abs(a).max(), np.abs(b).max()), a - b
    mean = float(differences.mean())
    if not _differ(differences, scale):
        p = float(abs(mean) <= ROUNDING * scale)
        return Comparison(n, mean, math.nan, math.nan, family, p, p, math.nan)
    test = scipy_stats().ttest_rel(a, b)
    interval, p = test.confidence_interval(1 - ALPHA / family), float(test.pvalue)
    effect_size = _hedges(n - 1) * mean / float(differences.std(ddof=1))
    low, high = max(-1.0, float(interval.low)), min(1.0, float(interval.high))
    return Comparison(n, mean, low, high, family, p, p, effect_size)


def _finite(where: str, values: Sequence[float]) -> npt.NDArray[np.float64]:
    metrics = np.asarray(values, dtype=np.float64)
    if not np.isfinite(metrics).all():
        raise InputError(f"{where}: a metric is not a finite number; evaluate that run again or leave its seed out")
    return metrics


def _differ(values: npt.NDArray[np.float64], scale: float) -> bool:
    # 0.9 - 0.8 and 0.8 - 0.7 differ in the last bit: taken for spread, it would give t = 1e15.
    return bool(np.ptp(values) > ROUNDING * scale)


def _hedges(degrees: int) -> float:
    """Factor that makes a standardised mean unbiased: Hedges 1981, the exact one with the gamma function."""
    if degrees < 2:
        return math.nan  # With one degree the estimate has no mean that a factor could set right.
    return math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees - 1) / 2)) / math.sqrt(degrees / 2)


def _points(share: float, digits: int, sign: str = "") -> str:
    # + 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(100 * share, digits) + 0.0:{sign}.{digits}f}"


def scipy_stats() -> Any:
    """``scipy.stats``, which the base install lacks."""
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingPart('SciPy is not installed, which tests differences: pip install "byolt[train]"') from error
    return stats
