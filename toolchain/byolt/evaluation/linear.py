"""Linear probe: multinomial logistic regression on frozen features.

Axes: N images, C classes, D features, R rank of the features.

Objective, with rows standardised by the training part's mean and standard deviation::

    mean over N of cross-entropy(W x + b, y)  +  l2 / 2 * |W|^2        (b is free)

scikit-learn's ``LogisticRegression(C=1 / (N * l2))`` on standardised features has the same minimum for C > 2.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from byolt.data.subsets import stratified_subset
from byolt.evaluation.features import refuse_non_finite

L2_PATH = tuple(10.0**-exponent for exponent in range(7))
"""Regularisation tried, from 1 to 1e-6: strong first, so that each fit starts near its end."""
DECLINES = 2
"""The path ends after this many values in a row below the best: weaker ones overfit more and cost most."""
MAX_ITERATIONS = 500
"""Of L-BFGS a fit; 20 to 100 are usual in the coordinates below."""
EMPTY_DIRECTION = 1e-7
"""Directions with less than this share of the largest variance are float32 noise and are left out."""


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of raw features; the standardisation is folded into its weights."""

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, "C"]
    l2: float
    validation_accuracies: dict[float, float]
    """Accuracy on the validation split for each l2 tried."""

    def logits(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        """Of each row; rows with NaN or infinity are refused."""
        refuse_non_finite(features, "the linear probe's features")
        return F.linear(features, self.weight, self.bias)

    def predict(self, features: Float[Tensor, "N D"]) -> npt.NDArray[np.int64]:
        """Class of each row, (N,); rows with NaN or infinity are refused."""
        return self.logits(features).argmax(1).cpu().numpy()


def linear_probe(
    features: Float[Tensor, "N D"],
    labels: npt.NDArray[np.int64],
    *,
    classes: int,
    validation_share: float,
    seed: int,
) -> LinearProbe:
    """Fit the probe: l2 by a validation split of the training images, then again on all of them.

    Args:
        features: Training features; the probe is fitted, and lies, on their device.
        labels: Their classes, (N,), in [0, classes).
        classes: Number of classes.
        validation_share: Share of each class held out to choose l2, in (0, 1).
        seed: Draws that split.

    Returns:
        The probe fitted on all N images with the l2 of the best validation accuracy, the stronger of equals. With one
        image a class none can be held out: l2 is then the strongest, and there is no validation accuracy.

    Raises:
        NonFiniteFeatures: A feature is NaN or infinite.
    """
    refuse_non_finite(features, "the linear probe's features")
    held_out = stratified_subset(labels, validation_share, seed)
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    accuracies: dict[float, float] = {}
    if len(kept):
        part = _Standardised(features[kept], labels[kept], classes)
        accuracies = _validation_accuracies(part, features[held_out], labels[held_out])
    best = max(accuracies, key=accuracies.__getitem__, default=L2_PATH[0])  # The first of equals: the stronger.
    weight, bias = _Standardised(features, labels, classes).fit(best)
    return LinearProbe(weight, bias, best, accuracies)


def fit_path(
    features: Float[Tensor, "N D"], labels: npt.NDArray[np.int64], *, classes: int, l2s: Sequence[float]
) -> Iterator[LinearProbe]:
    """The probe with each l2 in turn, each fit beginning where the last one ended; nothing is chosen.

    Raises:
        NonFiniteFeatures: A feature is NaN or infinite.
    """
    refuse_non_finite(features, "the linear probe's features")
    part = _Standardised(features, labels, classes)
    for l2 in l2s:
        weight, bias = part.fit(l2)
        yield LinearProbe(weight, bias, l2, {})


def _validation_accuracies(
    part: "_Standardised", features: Float[Tensor, "V D"], labels: npt.NDArray[np.int64]
) -> dict[float, float]:
    """Accuracy on V held-out images by l2, up to where weaker ones only overfit more."""
    accuracies: dict[float, float] = {}
    best, declines = L2_PATH[0], 0
    for l2 in L2_PATH:
        weight, bias = part.fit(l2)
        predicted = F.linear(features, weight, bias).argmax(1).cpu().numpy()
        accuracies[l2] = float((predicted == labels).mean())
        if accuracies[l2] > accuracies[best]:
            best = l2
        declines = declines + 1 if accuracies[l2] < accuracies[best] else 0
        if declines == DECLINES:
            break
    return accuracies


def _principal_axes(rows: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "R"], Float[Tensor, "D R"]]:
    """Variances, ascending, and directions of centred rows; with fewer rows than dimensions, R = N of them.

    There the covariance has many equal eigenvalues, on which a float32 eigensolver may fail; the rows' own singular
    values are few and far apart.
    """
    if len(rows) < rows.shape[1]:
        _, values, directions = torch.linalg.svd(rows, full_matrices=False)
        return values.flip(0).square() / len(rows), directions.flip(0).T
    variances, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
    return variances, axes


class _Standardised:
    """Training features in coordinates where the loss is round, and a warm start for the next fit.

    At W = 0 and b = 0 the Hessian of the softmax loss is (1/C)(I - 11'/C) times the features' covariance, and times
    1 for b. With the features turned to their principal axes (variances v), W = A / sqrt(v / C + l2) and
    b = a sqrt(C), the Hessian in (A, a) is close to the identity and L-BFGS needs a fraction of the steps. The minimum
    is the same.
    """

    def __init__(self, features: Float[Tensor, "N D"], labels: npt.NDArray[np.int64], classes: int) -> None:
        mean = features.mean(0, dtype=torch.float64).to(features.dtype)
        rows = features - mean
        spread = rows.square().mean(0, dtype=torch.float64).sqrt().to(features.dtype)
        # A dead feature stays zero after centring; dividing by its spread would make it noise or NaN.
        scale = torch.where(spread > 1e-6 * mean.abs(), spread, 1.0)
        rows /= scale
        self.mean, self.scale = mean.double(), scale.double()
        variances, axes = _principal_axes(rows)
        filled = variances > EMPTY_DIRECTION * variances[-1]
        self.variances, self.axes = variances[filled], axes[:, filled]
        self.rows: Float[Tensor, "N R"] = rows @ self.axes
        self.labels: Int64[Tensor, "N"] = torch.from_numpy(labels).to(features.device)
        self.classes = classes
        self.weight = rows.new_zeros(classes, len(self.variances))
        self.bias = rows.new_zeros(classes)

    def fit(self, l2: float) -> tuple[Float[Tensor, "C D"], Float[Tensor, "C"]]:
        """Weight and bias for raw features at the minimum of the module's objective."""
        stretch = (self.variances / self.classes + l2).rsqrt()
        free_weight = (self.weight / stretch).requires_grad_()
        free_bias = (self.bias / self.classes**0.5).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [free_weight, free_bias],
            max_iter=MAX_ITERATIONS,
            history_size=20,
            tolerance_grad=1e-5,
            tolerance_change=1e-6,  # Of the loss: float32 sums over 50,000 rows know no more.
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            weight, bias = free_weight * stretch, free_bias * self.classes**0.5
            data_loss = F.cross_entropy(F.linear(self.rows, weight, bias), self.labels)
            loss: Tensor = data_loss + l2 / 2 * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(objective)  # type: ignore[no-untyped-call]
        self.weight = (free_weight * stretch).detach()
        self.bias = (free_bias * self.classes**0.5).detach()
        weight = (self.weight @ self.axes.T).double() / self.scale
        bias = self.bias.double() - weight @ self.mean
        return weight.to(self.rows.dtype), bias.to(self.rows.dtype)
