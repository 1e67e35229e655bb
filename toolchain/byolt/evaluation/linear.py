"""Linear probe: multinomial logistic regression on frozen features.

Axes: N images, C classes, D features, R rank of the features.

Objective, with rows standardised by the training part's mean and standard deviation::

    mean over N of cross-entropy(W x + b, y)  +  l2 / 2 * |W|^2        (b is free)

scikit-learn's ``LogisticRegression(C=1 / (N * l2))`` on standardised features has the same minimum for C > 2.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from byolt_export.errors import InputError

from byolt.data.subsets import stratified_subset

L2_PATH = tuple(10.0 ** (-exponent / 2) for exponent in range(11))
"""Regularisation tried, from 1 to 1e-5 by half decades: strong first, so that each fit starts near its end."""
MAX_ITERATIONS = 100
"""Of L-BFGS a fit. In the coordinates below 10 to 40 are usual."""
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

    def predict(self, features: Float[Tensor, "N D"]) -> npt.NDArray[np.int64]:
        """Class of each row, (N,)."""
        return F.linear(features, self.weight, self.bias).argmax(1).numpy()


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
        features: Training features.
        labels: Their classes, (N,), in [0, classes).
        classes: Number of classes.
        validation_share: Share of each class held out to choose l2, in (0, 1).
        seed: Draws that split.

    Returns:
        The probe fitted on all N images with the l2 of the best validation accuracy, the stronger of equals.

    Raises:
        InputError: too few images to hold any out.
    """
    held_out = stratified_subset(labels, validation_share, seed)
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    if len(kept) == 0:
        raise InputError(f"linear probe: {len(labels)} labelled images leave none to train on; label at least 2 a class")
    part = _Standardised(features[kept], labels[kept], classes)
    accuracies = {}
    for l2 in L2_PATH:
        weight, bias = part.fit(l2)
        predicted = F.linear(features[held_out], weight, bias).argmax(1).numpy()
        accuracies[l2] = float((predicted == labels[held_out]).mean())
    best = max(L2_PATH, key=lambda l2: accuracies[l2])  # max keeps the first of equals.
    weight, bias = _Standardised(features, labels, classes).fit(best)
    return LinearProbe(weight, bias, best, accuracies)


class _Standardised:
    """Training features in coordinates where the loss is round, and a warm start for the next fit.

    At W = 0 the Hessian of the softmax loss is (1/C)(I - 11'/C) times the features' covariance. With the
    features turned to their principal axes (variances v) and W = A / sqrt(v / C + l2), the Hessian in A is close to
    the identity and L-BFGS needs tens of steps instead of hundreds. The minimum is the same.
    """

    def __init__(self, features: Float[Tensor, "N D"], labels: npt.NDArray[np.int64], classes: int) -> None:
        self.mean = features.double().mean(0)
        spread = features.double().std(0, correction=0)
        # A dead feature stays zero after centring; dividing by its spread would make it noise or NaN.
        self.scale = torch.where(spread > 1e-6 * self.mean.abs(), spread, 1.0)
        rows = ((features - self.mean) / self.scale).to(features.dtype)
        variances, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
        filled = variances > EMPTY_DIRECTION * variances[-1]
        self.variances, self.axes = variances[filled], axes[:, filled]
        self.rows: Float[Tensor, "N R"] = rows @ self.axes
        self.labels: Int64[Tensor, "N"] = torch.from_numpy(labels)
        self.classes = classes
        self.weight = rows.new_zeros(classes, len(self.variances))
        self.bias = rows.new_zeros(classes)

    def fit(self, l2: float) -> tuple[Float[Tensor, "C D"], Float[Tensor, "C"]]:
        """Weight and bias for raw features at the minimum of the module's objective."""
        stretch = (self.variances / self.classes + l2).rsqrt()
        free = (self.weight / stretch).requires_grad_()
        bias = self.bias.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [free, bias], max_iter=MAX_ITERATIONS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            weight = free * stretch
            loss = F.cross_entropy(F.linear(self.rows, weight, bias), self.labels)
            loss = loss + l2 / 2 * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(objective)
        self.weight, self.bias = (free * stretch).detach(), bias.detach()
        weight = (self.weight @ self.axes.T).double() / self.scale
        shift = weight @ self.mean
        return weight.to(free.dtype), (self.bias.double() - shift).to(free.dtype)
