"""Few labels: which images get one, and how a setting is chosen inside of them.

A *budget* is a number of labelled images, a *draw* the images that get them. Settings are chosen by cross-validation on
draws of their own: a reported draw's labels fit one classifier, and no label outside of a draw is looked at.
Axes: N images, C classes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from byolt.data.source import Labels
from byolt.evaluation.linear import fit_path
from byolt.evaluation.roc import auc
from byolt.evaluation.variance_components import Measure
from byolt_export.errors import InputError

FOLDS = 3
L2_GRID = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)
"""Of the linear probe, strong first: of equals the strongest is chosen."""

Fit = Callable[[Labels, Labels], Iterable[Float[Tensor, "H C"]]]
"""From images to train on and images held out, as indices: the logits of those held out, a setting after another."""


class Choice(NamedTuple):
    """A setting chosen by cross-validation."""

    number: int
    """In the grid; the first of equals."""
    metric: float
    """Mean over draws and folds; NaN where no fold could be held out."""


def measure_of(labels: Labels) -> Measure:
    """The area under the ROC curve where there are two classes, which may be of unequal size; else the accuracy."""
    return "auc" if len(np.unique(labels)) == 2 else "accuracy"


def scores_of(logits: Float[Tensor, "N C"], labels: Labels, measure: Measure) -> npt.NDArray[np.float32]:
    """What a measure needs of each image, (N,): the second class's logit less the first's, or 1 where it is right."""
    if measure == "auc":
        margins: npt.NDArray[np.float32] = (logits[:, 1] - logits[:, 0]).float().numpy()
        return margins
    right: npt.NDArray[np.bool_] = logits.argmax(1).numpy() == labels
    return right.astype(np.float32)


def metric_of(scores: npt.NDArray[np.float32], labels: Labels, measure: Measure) -> float:
    """The measure of images by their scores, (N,)."""
    return auc(scores, labels) if measure == "auc" else float(scores.mean())


def draw_of_labels(labels: Labels, budget: int, key: Sequence[int]) -> Labels:
    """``budget`` images, of each class its share by the largest remainder and at least one.

    Args:
        labels: Class of each training image, (N,).
        budget: How many get their label; N gives all.
        key: The same key draws the same images.

    Returns:
        Indices into ``labels``, ascending.

    Raises:
        InputError: More than there are, or fewer than classes.
    """
    present, counts = np.unique(labels, return_counts=True)
    if not len(present) <= budget <= len(labels):
        raise InputError(
            f"--labels {budget}: {len(labels):,} training images have labels, of {len(present)} classes; give from "
            f"{len(present)} to {len(labels):,}, or all"
        )
    rng = np.random.default_rng([budget, *key])
    of_class = _shares(counts, budget)
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in present]
    return np.sort(np.concatenate([own[:count] for own, count in zip(members, of_class, strict=True)]))


def _shares(counts: Labels, budget: int) -> Labels:
    """How many of each class, their sum ``budget``."""
    exact = budget * counts / counts.sum()
    taken: Labels = np.maximum(1, np.floor(exact)).astype(np.int64)
    while taken.sum() < budget:
        taken[np.argmax(np.where(taken < counts, exact - taken, -np.inf))] += 1
    while taken.sum() > budget:  # Where small classes were raised to one image.
        taken[np.argmax(np.where(taken > 1, taken - exact, -np.inf))] -= 1
    return taken


def folds_of(labels: Labels, seed: int) -> list[Labels]:
    """Parts to hold out in turn, each of every class, stratified: ``FOLDS``, or as many as the smallest class has.

    None where a class has one image: held out it could not be learned, and learned it could not be tested.
    """
    present, counts = np.unique(labels, return_counts=True)
    folds = min(FOLDS, int(counts.min()))
    if folds < 2:
        return []
    rng = np.random.default_rng(seed)
    number, dealt = np.empty(len(labels), np.int64), 0
    for label in present:  # Dealt on from class to class: the parts are of near-equal size.
        members = rng.permutation(np.flatnonzero(labels == label))
        number[members] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    return [np.flatnonzero(number == fold) for fold in range(folds)]


def choose(settings: int, draws: Sequence[Labels], labels: Labels, measure: Measure, fit: Fit) -> Choice:
    """The setting of the best mean metric on the folds that were held out, over all draws.

    Args:
        settings: How many ``fit`` tries.
        draws: Indices of labelled images, for this choice alone.
        labels: Of all training images; those outside of the draws are not looked at.
        measure: What is best.
        fit: Trains with each setting. One that fails may give logits that are not finite: it is not chosen.

    Returns:
        The first of equal settings, and the first of all where no fold can be held out.
    """
    found: list[list[float]] = []
    for number, draw in enumerate(draws):
        for held in folds_of(labels[draw], number):
            kept, out = np.delete(draw, held), draw[held]
            found.append([_metric(logits, labels[out], measure) for logits in fit(kept, out)])
    if not found:
        return Choice(0, float("nan"))
    means = np.mean(found, axis=0)
    assert means.shape == (settings,)
    return Choice(int(means.argmax()), float(means.max()))


def _metric(logits: Float[Tensor, "H C"], labels: Labels, measure: Measure) -> float:
    return metric_of(scores_of(logits, labels, measure), labels, measure) if bool(logits.isfinite().all()) else 0.0


def choose_l2(
    features: Float[Tensor, "N D"], labels: Labels, draws: Sequence[Labels], classes: int, measure: Measure
) -> Choice:
    """The l2 of ``L2_GRID`` for a linear probe of frozen features."""

    def fit(kept: Labels, out: Labels) -> Iterable[Float[Tensor, "H C"]]:
        for probe in fit_path(features[kept], labels[kept], classes=classes, l2s=L2_GRID):
            yield probe.logits(features[out])

    return choose(len(L2_GRID), draws, labels, measure, fit)
