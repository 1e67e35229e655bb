"""What a run's frozen encoder makes of its images: neighbours, a map, a spectrum, and where a linear probe errs.

Axes: N images, D features, K neighbours, C classes.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from byolt.data import ImageStore, Splits, open_splits
from byolt.data.source import Labels
from byolt.data.subsets import spread
from byolt.evaluation.dynamics import spectrum
from byolt.evaluation.evaluate import embed_store, evaluation_store
from byolt.evaluation.features import Subset
from byolt.evaluation.linear import linear_probe
from byolt.networks.encoders import untrained_encoder
from byolt.recipe.schema import Recipe
from byolt.run import Run
from byolt_export.errors import InputError, MissingPart

GALLERY_IMAGES = 2000
"""Images of the learning set that neighbours are looked for in."""
QUERIES, NEIGHBOURS = 8, 6
MAP_IMAGES = 1000
PROBE_IMAGES, TEST_IMAGES = 5000, 10_000
"""At most; so few keep a report a matter of seconds, and its captions say how many they were."""


@dataclass(frozen=True)
class Neighbours:
    """The images nearest to each of some, by cosine."""

    images: npt.NDArray[np.uint8]
    """Queries and behind each its neighbours, (Q, 1 + K, S, S, 3)."""
    cosines: npt.NDArray[np.float64]
    """(Q, K), descending."""
    labels: Labels | None
    """(Q, 1 + K), -1 where not known; None without labels."""
    same_class: float | None
    """Share of same-class neighbours over the gallery, where both classes are known; None without labels."""


@dataclass(frozen=True)
class Map:
    """The gallery's images, or some of them, on a plane."""

    images: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float64]
    """(N, 2)."""
    labels: Labels | None


@dataclass(frozen=True)
class Confusion:
    """Where a linear probe of the features errs on held-out images."""

    counts: npt.NDArray[np.int64]
    """(C, C): true class by predicted class."""
    n_train: int
    n_test: int
    accuracy: float


@dataclass(frozen=True)
class Seen:
    """All that is shown of the encoder; ``changed`` where the images are others than those learned from."""

    gallery: int
    neighbours: Neighbours
    map: Map
    spectra: dict[str, list[float]]
    classes: tuple[str, ...]
    confusion: Confusion | None
    changed: bool
    left_out: tuple[str, ...]
    """Why there is no confusion matrix, where the labels would allow one."""


def see(run: Run, recipe: Recipe) -> Seen:
    """Look at the run's images through its encoder.

    Raises:
        InputError: The run has no encoder, its images are gone, or there are too few.
    """
    encoder = run.encoder()
    splits = open_splits(recipe.data, recipe.seed)
    store = evaluation_store(splits.learn, recipe)
    chosen = spread(len(store), GALLERY_IMAGES)
    if len(chosen) < 4:
        raise InputError(f"{splits.learn.name}: {len(chosen)} images are too few to compare")
    gallery = Subset(store, chosen)
    labels = None if splits.train is None or store.labels is None else store.labels[chosen]
    features = embed_store(encoder, gallery, recipe)
    confusion, left_out = _confusion_or_why(encoder, splits, recipe)
    return Seen(
        gallery=len(chosen),
        neighbours=_neighbours(features, gallery, labels),
        map=_map(features, gallery, labels, recipe.seed),
        spectra={
            "learned encoder": spectrum(features).tolist(),
            "untrained encoder": spectrum(embed_store(untrained_encoder(recipe), gallery, recipe)).tolist(),
        },
        classes=() if splits.train is None else splits.train.classes,
        confusion=confusion,
        changed=store.fingerprint != run.environment.get("images"),
        left_out=left_out,
    )


def nearest(features: Tensor, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Cosines and numbers of the ``count`` rows nearest to each, descending, without itself; equals by number."""
    unit = F.normalize(features.double(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-math.inf).numpy()
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(cosines, order, 1), order


def _neighbours(features: Tensor, gallery: Subset, labels: Labels | None) -> Neighbours:
    cosines, order = nearest(features, min(NEIGHBOURS, len(gallery) - 1))
    queries = spread(len(gallery), QUERIES)
    rows = np.concatenate([queries[:, None], order[queries]], 1)
    images = gallery.batch(rows.reshape(-1))
    same = None
    if labels is not None:
        theirs = labels[order]
        known = (labels[:, None] >= 0) & (theirs >= 0)  # Of part of a set, as of STL-10, there are no labels.
        same = float((theirs == labels[:, None])[known].mean()) if known.any() else None
    return Neighbours(
        images=images.reshape(*rows.shape, *images.shape[1:]),
        cosines=cosines[queries],
        labels=None if labels is None else labels[rows],
        same_class=same,
    )


def _map(features: Tensor, gallery: Subset, labels: Labels | None, seed: int) -> Map:
    """t-SNE of unit features; the axes of the start are the principal ones, so equal runs give equal maps."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise MissingPart('scikit-learn is not installed, which maps: pip install "byolt[train]"') from error
    chosen = spread(len(gallery), MAP_IMAGES)
    unit = F.normalize(features[torch.from_numpy(chosen)], dim=1).double().numpy()
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    start = _start(unit, seed)
    points = TSNE(2, perplexity=perplexity, init=start, random_state=seed, n_jobs=1).fit_transform(unit)
    return Map(gallery.batch(chosen), np.asarray(points, np.float64), None if labels is None else labels[chosen])


def _start(unit: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float32]:
    """Two principal components at the scale that t-SNE starts from; noise where all features are equal."""
    centred = unit - unit.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    planar = left[:, :2] * values[:2]
    size = planar[:, 0].std() if planar.shape[1] == 2 else 0.0
    if size < 1e-9:
        planar, size = np.random.default_rng(seed).standard_normal((len(unit), 2)), np.float64(1)
    return np.asarray(planar / size * 1e-4, np.float32)


def _confusion_or_why(
    encoder: torch.nn.Module, splits: Splits, recipe: Recipe
) -> tuple[Confusion | None, tuple[str, ...]]:
    if splits.train is None or splits.test is None:
        return None, ()
    try:
        train, test = evaluation_store(splits.train, recipe), evaluation_store(splits.test, recipe)
        return _confusion(encoder, train, test, recipe), ()
    except InputError as error:
        return None, (f"errors by class: {error}",)


def _confusion(encoder: torch.nn.Module, train: ImageStore, test: ImageStore, recipe: Recipe) -> Confusion:
    assert train.labels is not None
    assert test.labels is not None
    few, held_out = spread(len(train), PROBE_IMAGES), spread(len(test), TEST_IMAGES)
    how: dict[str, Any] = {"validation_share": recipe.evaluation.validation_share, "seed": recipe.seed}
    classes = len(train.classes)
    probe = linear_probe(embed_store(encoder, Subset(train, few), recipe), train.labels[few], classes=classes, **how)
    predicted, true = probe.predict(embed_store(encoder, Subset(test, held_out), recipe)), test.labels[held_out]
    counts = np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)
    return Confusion(counts, len(few), len(held_out), float((predicted == true).mean()))
