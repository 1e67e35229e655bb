"""How sure a mean over seeds, draws of labels and test images is: the variance of each level, and Student's quantile.

Every model of a study is tested on the same images, as every reader of a reading study reads the same cases. Obuchowski
and Rockette 1995 split the variance of the mean over n readers into what differs between readers and what they share,

    Var(mean) = MS / n + Cov

MS: mean square between the readers' metrics (divisor n - 1). Draws of labels within a seed are in it already, and not
counted again (Davison and Hinkley 1997, sec. 3.8). Cov: mean covariance of two different readers over the draw of test
images (DeLong 1988). It is what a hierarchical bootstrap estimates, in closed form and without its faults at 3 seeds: a
variance between seeds short by the factor (n - 1) / n, draws and noise of images counted twice, quantiles of 3 values.
Student's quantile makes up for MS being estimated from n values.

Axes: K cells (a start at a budget), U units (seeds, or draws where the seed makes no difference), N test images.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from byolt.evaluation.roc import placements
from byolt.evaluation.statistics import scipy_stats
from byolt_export.errors import InputError

Measure = Literal["auc", "accuracy"]

NO_SPREAD = 1e-12
"""A standard error below this is rounding alone."""


class Components(NamedTuple):
    """Means of K cells and the two parts of their covariance, for any weighted sum of cells."""

    units: int
    images: int
    mean: Float[np.ndarray, "K"]
    between: Float[np.ndarray, "K K"]
    """Covariance of the cells between units, divisor U - 1; zeros where there is one unit."""
    shared: Float[np.ndarray, "K K N"]
    """Covariance of different units over the draw of test images, the mean over pairs: each image's part of it."""

    def half_width(self, weights: Float[np.ndarray, "*G K"], alpha: float) -> Float[np.ndarray, "*G"]:
        """Half of the interval at the level 1 - alpha around weighted sums of cells.

        NaN where nothing varies: a width of 0 would claim certainty.
        """
        t = scipy_stats().t
        of_all, of_units = (error * t.isf(alpha / 2, degrees) for error, degrees in self._errors(weights))
        return np.asarray(np.maximum(of_all, of_units))

    def p_value(self, weights: Float[np.ndarray, "K"]) -> float:
        """Two-sided, of a weighted sum of cells against 0: alpha where the interval at 1 - alpha just holds 0."""
        gap, t = abs(float(weights @ self.mean)), scipy_stats().t
        with np.errstate(divide="ignore", invalid="ignore"):  # Units that agree to the last bit bound nothing: p is 0.
            return float(max(2 * t.sf(gap / error, degrees) for error, degrees in self._errors(weights)))

    def _errors(self, weights: Float[np.ndarray, "*G K"]) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """Standard error with degrees of freedom of weighted sums of cells: of all levels, and of the units alone.

        Satterthwaite's degrees are twice the square of a variance over the variance of its estimate. Differs from
        Hillis 2007: the variance of the estimate of Cov counts too, and an interval is never narrower than that of the
        units alone. Else 3 units that agree by chance leave Cov the greater part and many degrees: where Cov is truly
        a tenth, intervals of 95 % hold 92 % and those of 99.2 % hold 96.8 %; with the bound 94.9 % and 99.2 %.
        """
        of_units = np.maximum(np.einsum("...k,kl,...l->...", weights, self.between, weights), 0) / self.units
        pairs = (weights[..., :, None] * weights[..., None, :]).reshape(*weights.shape[:-1], -1)
        by_image = pairs @ self.shared.reshape(pairs.shape[-1], -1)
        variance = of_units + np.maximum(by_image.sum(-1), 0)
        variance = np.where(variance > NO_SPREAD**2, variance, np.nan)
        free = max(self.units - 1, 1)
        of_estimate = of_units**2 / free + self.images * by_image.var(-1, ddof=1) / 2
        return (variance**0.5, np.maximum(variance**2 / of_estimate, free)), (of_units**0.5, free)

    def scaled(self, factors: Float[np.ndarray, "K"]) -> "Components":
        """Covariances of the cells times their factors: the delta method for a function with these derivatives."""
        square = np.outer(factors, factors)
        return self._replace(between=self.between * square, shared=self.shared * square[..., None])


def components(values: Float[np.ndarray, "K U"], influences: Float[np.ndarray, "K U N"]) -> Components:
    """The components of K cells from the metric of each unit and its influences, by ``metric_and_influences``."""
    n = values.shape[1]
    centred = values - values.mean(1, keepdims=True)
    between = centred @ centred.T / max(n - 1, 1)
    total = influences.sum(1)
    same = np.einsum("kun,lun->kln", influences, influences)
    # One unit has no other to share the images with: its own variance is what a new test set would change.
    shared = (total[:, None] * total - same) / (n * (n - 1)) if n > 1 else same
    return Components(n, influences.shape[2], values.mean(1), between, shared)


def metric_and_influences(
    scores: Num[np.ndarray, "*M N"], labels: Int[np.ndarray, "N"], measure: Measure
) -> tuple[Float[np.ndarray, "*M"], Float[np.ndarray, "*M N"]]:
    """Metric of each row of scores, and the influences of its images.

    The sum over images of the products of two rows' influences is the covariance of their metrics over the draw of
    the test images: of accuracies by images as they come, of areas within each class (DeLong 1988; ties count half).

    Args:
        scores: Score of the positive class, or 1 where an image is classified right.
        labels: 1 positive, 0 negative; for the area alone.
        measure: "auc" or "accuracy".

    Raises:
        InputError: An area of fewer than two images of either class, or an accuracy of fewer than two.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape[-1] < 2:
        raise InputError("accuracy: one test image has no spread; it needs 2")
    if measure == "accuracy":
        metric = scores.mean(-1)
        return metric, (scores - metric[..., None]) / np.sqrt(scores.shape[-1] * (scores.shape[-1] - 1))
    positive = labels == 1
    n_1, n_0 = int(positive.sum()), int((~positive).sum())
    if min(n_1, n_0) < 2:
        raise InputError(f"area under the curve: {n_1} positive and {n_0} negative test images; it needs 2 of each")
    placed = placements(scores, labels)
    metric = placed[..., positive].mean(-1)
    divisor = np.where(positive, n_1 * (n_1 - 1), n_0 * (n_0 - 1))
    return metric, (placed - metric[..., None]) / np.sqrt(divisor)
