"""Area under the ROC curve of two classes: how well scores put those of class 1 above those of class 0.

It is the probability that an image of class 1 has a higher score than one of class 0, ties counting one half
(Bamber 1975), and so does not change with how many there are of each. Axes: N images, M of class 1, K of class 0.

``auc``: the area alone, with weights for a bootstrap over images.
``area_on_test_set``: of one model, over the draw of the test images; DeLong's variance on the logit scale.
``area_difference_on_test_set``: of two models on the same test images; DeLong's covariance.
"""

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from byolt.data.source import Labels
from byolt.evaluation.statistics import scipy_stats
from byolt_export.errors import InputError

Scores = npt.NDArray[np.floating[Any]]

Z_95 = NormalDist().inv_cdf(0.975)


class PairedAreas(NamedTuple):
    """The area of a minus that of b on the same images, its 95 % interval over their draw, and the two-sided p."""

    difference: float
    low: float
    high: float
    p: float


def auc(scores: Scores, labels: Labels, weights: npt.NDArray[Any] | None = None) -> float:
    """Area under the ROC curve, in [0, 1].

    Args:
        scores: Higher for class 1, (N,).
        labels: 0 or 1, (N,).
        weights: How often each image counts, (N,); left out, once.

    Returns:
        The area; NaN where a class has no weight.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    positive, negative = labels == 1, labels == 0
    order = np.argsort(scores[negative], kind="stable")
    ascending = scores[negative][order]
    below = np.concatenate([[0.0], np.cumsum(weights[negative][order])])
    lower, not_above = (np.searchsorted(ascending, scores[positive], side) for side in ("left", "right"))
    won = weights[positive] @ (below[lower] + below[not_above]) / 2
    pairs = weights[positive].sum() * below[-1]
    return float(won / pairs) if pairs else math.nan


def area_on_test_set(scores: Scores, labels: Labels) -> dict[str, Any]:
    """Area under the curve with its 95 % interval over the draw of the test images; JSON-able.

    The variance is that of DeLong et al. 1988. The interval is symmetric on the logit scale, and so within 0 and 1.
    Where all of a class stand on one side of the other, or there is but one image of a class, that variance is 0 or
    unknown: the interval is then Wilson's of as many pairs as can be made without using an image twice.

    Args:
        scores: Higher for class 1, (N,).
        labels: 0 or 1, (N,), both there.
    """
    area, low, high = _interval(scores, labels)
    return {"area": area, "interval_95": [low, high]}


def area_difference_on_test_set(scores_a: Scores, scores_b: Scores, labels: Labels) -> PairedAreas:
    """Two models by their areas on the same images: DeLong's interval and test, which know that they are the same.

    Where the variance of the difference is 0 or unknown, the interval is made of the two models' own, as if they were
    measured on different images (Newcombe 1998, method 10), and p is 1 if it holds 0, else 0.

    Args:
        scores_a, scores_b: Higher for class 1, (N,), in the same order.
        labels: 0 or 1, (N,), both there.

    Raises:
        InputError: Unequal numbers of images.
    """
    if not len(scores_a) == len(scores_b) == len(labels):
        raise InputError(f"areas: {len(scores_a)} images against {len(scores_b)}; evaluate both on the same")
    parts = zip(_placements(scores_a, labels), _placements(scores_b, labels), strict=True)
    apart = tuple(a - b for a, b in parts)
    difference, variance = float(apart[0].mean()), _variance(apart)
    if variance > 0:
        error = math.sqrt(variance)
        low, high = difference - Z_95 * error, difference + Z_95 * error
        p = 2 * NormalDist().cdf(-abs(difference) / error)
    else:
        (a, a_low, a_high), (b, b_low, b_high) = _interval(scores_a, labels), _interval(scores_b, labels)
        low = difference - math.hypot(a - a_low, b_high - b)
        high = difference + math.hypot(a_high - a, b - b_low)
        p = float(low <= 0 <= high)
    return PairedAreas(difference, max(-1.0, low), min(1.0, high), p)


def _interval(scores: Scores, labels: Labels) -> tuple[float, float, float]:
    """Area, lower and upper end."""
    parts = _placements(scores, labels)
    area, variance = float(parts[0].mean()), _variance(parts)
    if variance > 0 and 0 < area < 1:
        centre, half = math.log(area / (1 - area)), Z_95 * math.sqrt(variance) / (area * (1 - area))
        return area, _logistic(centre - half), _logistic(centre + half)
    pairs = min(len(part) for part in parts)
    centre, shrunk = area + Z_95**2 / (2 * pairs), 1 + Z_95**2 / pairs
    half = Z_95 * math.sqrt(area * (1 - area) / pairs + Z_95**2 / (4 * pairs**2))
    return area, max(0.0, (centre - half) / shrunk), min(1.0, (centre + half) / shrunk)


def placements(scores: Scores, labels: Labels) -> Scores:
    """Of each image of class 1 the share of class 0 below it, of each of class 0 the share of class 1 above it.

    DeLong et al. 1988; ties count half. The mean over either class is the area.

    Args:
        scores: Rows of scores, higher for class 1, (..., N).
        labels: 0 or 1, (N,), both there.
    """
    rank: Any = scipy_stats().rankdata
    positive = labels == 1
    # An image's rank among all less that within its class: how many of the other class lie below it.
    below = rank(scores, axis=-1)
    below[..., positive] -= rank(scores[..., positive], axis=-1)
    below[..., ~positive] -= rank(scores[..., ~positive], axis=-1)
    placed: Scores = np.where(positive, below / (~positive).sum(), 1 - below / positive.sum())
    return placed


def _placements(scores: Scores, labels: Labels) -> tuple[Scores, Scores]:
    """Those of class 1, (M,), and those of class 0, (K,)."""
    placed = placements(scores, labels)
    return placed[labels == 1], placed[labels == 0]


def _variance(parts: tuple[Scores, ...]) -> float:
    """DeLong's: the variance of each class's placements by the number of its images; 0 where it is not known."""
    if min(len(part) for part in parts) < 2:
        return 0.0
    variance = sum(float(part.var(ddof=1)) / len(part) for part in parts)
    return variance if variance > 1e-16 else 0.0  # Below it is rounding.


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))
