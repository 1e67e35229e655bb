"""What figures over a few seeds allow one to say, and two models on the same images. Figures are shares in [0, 1]."""

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from byolt.evaluation.intervals import wilson_95
from byolt_export.errors import InputError, MissingPart

ALPHA = 0.05
"""How often all intervals of a family together may miss."""

ROUNDING = 1e-12
"""Figures closer than this share of the largest of them differ by rounding alone."""

EXACT_PAIRS = 9
"""Pairs up to which all orders are counted: 9! = 362,880."""


class Summary(NamedTuple):
    """Mean of one figure over n seeds; ``std`` has the divisor n - 1, ``low`` to ``high`` is Student's 95 % interval.

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
    images. ``p`` is McNemar's, exact and two-sided.
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


def summarise(values: Sequence[float]) -> Summary:
    """Mean, spread and 95 % interval of one figure over seeds.

    Raises:
        InputError: There is no value, or one is not finite.
    """
    figures = _finite("summary", values)
    if not len(figures):
        raise InputError("summary: there is no value; evaluate at least one seed")
    mean, std = float(figures.mean()), _std(figures, scale=float(np.abs(figures).max()))
    return Summary(len(figures), mean, std, *_t_interval(mean, std, len(figures), ALPHA))


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


def compare_paired(ours: Sequence[float], others: Mapping[str, Sequence[float]]) -> dict[str, Comparison]:
    """Our figures against each other method's, as one family.

    Args:
        ours: One figure a seed.
        others: The same of each other method, its seeds in the same order.

    Returns:
        A comparison under each name, in the order given.

    Raises:
        InputError: There is nothing to compare with, fewer than two pairs, unequal counts or a figure not finite.
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
    difference, low, high = c[1:4] if c.verdict != "worse" else (-c.difference, -c.high, -c.low)
    digits = 1
    while any(end != 0 and float(_points(end, digits)) == 0 for end in (low, high)):
        digits += 1
    interval = f"[{_points(low, digits)}, {_points(high, digits)}]"
    if c.verdict == "not told apart":
        return f"{ours} and {theirs} are not told apart: {_points(difference, digits, '+')} points {interval} holds 0"
    return f"{ours} is {c.verdict} than {theirs} by {_points(difference, digits)} points {interval}"


def mcnemar(correct_a: npt.NDArray[np.bool_], correct_b: npt.NDArray[np.bool_]) -> PairedModels:
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
    both, neither = int((correct_a & correct_b).sum()), int((~correct_a & ~correct_b).sum())
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((~correct_a & correct_b).sum())
    apart = only_a + only_b
    p = float(_stats().binomtest(only_a, apart, 0.5).pvalue) if apart else 1.0
    low, high = _newcombe_95(both, only_a, only_b, neither)
    return PairedModels(only_a, only_b, n, (only_a - only_b) / n, low, high, p)


def rank_correlation(ours: Sequence[float], published: Sequence[float]) -> RankCorrelation:
    """Whether our figures order the methods as published ones do: Spearman's rho, ties at their mean rank.

    Up to 9 pairs p is the share of all n! orders whose rho is at least as far from 0; above that it is by Student's t
    with n - 2 degrees of freedom.

    Raises:
        InputError: Unequal counts, or a figure not finite.
    """
    a, b = _finite("rank correlation", ours), _finite("rank correlation", published)
    n = len(a)
    if len(b) != n:
        raise InputError(f"rank correlation: {n} figures against {len(b)}; give one of each for every method")
    if n < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return RankCorrelation(n, math.nan, math.nan)
    stats = _stats()
    found = stats.spearmanr(a, b)
    p = _exact_p(stats.rankdata(a), stats.rankdata(b)) if n <= EXACT_PAIRS else float(found.pvalue)
    return RankCorrelation(n, float(found.statistic), p)


def _compared(name: str, ours: Sequence[float], theirs: Sequence[float], family: int) -> Comparison:
    """One comparison of a family, ``p_holm`` still unadjusted."""
    a, b = _finite(name, ours), _finite(name, theirs)
    n = len(a)
    if len(b) != n:
        raise InputError(f"{name}: {n} figures of ours against {len(b)}; run both methods with the same seeds")
    if n < 2:
        raise InputError(f"{name}: {n} paired seeds tell no spread; run at least 2, better 5")
    scale = float(max(np.abs(a).max(), np.abs(b).max()))
    difference, std = float((a - b).mean()), _std(a - b, scale)
    low, high = _t_interval(difference, std, n, ALPHA / family)
    if std > 0:
        p = 2 * float(_stats().t.sf(abs(difference) / std * math.sqrt(n), n - 1))
        effect_size = _hedges(n - 1) * difference / std
    else:
        p, effect_size = float(abs(difference) <= ROUNDING * scale), math.nan
    return Comparison(n, difference, low, high, family, p, p, effect_size)


def _finite(where: str, values: Sequence[float]) -> npt.NDArray[np.float64]:
    figures = np.asarray(values, dtype=np.float64)
    if not np.isfinite(figures).all():
        raise InputError(f"{where}: a figure is not a finite number; evaluate that run again or leave its seed out")
    return figures


def _std(values: npt.NDArray[np.float64], scale: float) -> float:
    """Sample standard deviation, divisor n - 1; 0 where only rounding tells the values apart, NaN of one value."""
    if len(values) < 2:
        return math.nan
    # 0.9 - 0.8 and 0.8 - 0.7 differ in the last bit: taken for spread, it would give t = 1e15.
    return float(values.std(ddof=1)) if np.ptp(values) > ROUNDING * scale else 0.0


def _t_interval(mean: float, std: float, n: int, miss: float) -> tuple[float, float]:
    """Student's interval of a mean, missed with probability ``miss``; NaN without a spread."""
    if not std > 0:
        return math.nan, math.nan
    half = float(_stats().t.isf(miss / 2, n - 1)) * std / math.sqrt(n)
    return mean - half, mean + half


def _hedges(degrees: int) -> float:
    """Factor that makes a standardised mean unbiased: Hedges 1981, the exact one with the gamma function."""
    if degrees < 2:
        return math.nan  # With one degree the estimate has no mean that a factor could set right.
    return math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees - 1) / 2)) / math.sqrt(degrees / 2)


def _newcombe_95(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """95 % interval of the difference of two paired proportions.

    Newcombe 1998 (Statistics in Medicine 17:2635), method 10: the Wilson intervals of both, their distances squared
    and added with the correlation phi, whose numerator is brought n/2 nearer to 0 where it is positive. Unlike
    Wald's it keeps its coverage where few images, or none, tell the models apart.
    """
    n = both + only_a + only_b + neither
    a, b = (both + only_a) / n, (both + only_b) / n
    (low_a, high_a), (low_b, high_b) = wilson_95(a, n), wilson_95(b, n)
    product = both * neither - only_a * only_b
    corrected = max(product - n / 2, 0.0) if product > 0 else product
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    phi = corrected / math.sqrt(margins) if margins else 0.0
    down, up = _added(a - low_a, high_b - b, phi), _added(high_a - a, b - low_b, phi)
    return max(-1.0, (only_a - only_b) / n - down), min(1.0, (only_a - only_b) / n + up)


def _added(x: float, y: float, phi: float) -> float:
    # Near phi = 1 and x = y the sum is 0 but for rounding, which may leave it below.
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))


def _exact_p(a_ranks: npt.NDArray[np.float64], b_ranks: npt.NDArray[np.float64]) -> float:
    # Twice a mean rank is a whole number: equal correlations then compare as equal. The first order is the one seen.
    a, b = np.rint(2 * a_ranks).astype(np.int64), np.rint(2 * b_ranks).astype(np.int64)
    orders = np.array(list(permutations(b.tolist())))
    covariances = np.abs(len(a) * (orders @ a) - a.sum() * b.sum())
    return float((covariances >= covariances[0]).mean())


def _points(share: float, digits: int, sign: str = "") -> str:
    # + 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(100 * share, digits) + 0.0:{sign}.{digits}f}"


def _stats() -> Any:
    """``scipy.stats``, which the base install lacks."""
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingPart('SciPy is not installed, which tests differences: pip install "byolt[train]"') from error
    return stats
