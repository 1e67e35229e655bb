"""Subsets of images: seeded and stratified by class, or evenly spread."""

import numpy as np
import numpy.typing as npt


def stratified_subset(labels: npt.NDArray[np.int64], share: float, seed: int) -> npt.NDArray[np.int64]:
    """Indices of ``share`` of each class: its count times the share, rounded half up, at least 1.

    Args:
        labels: Class of each image, (N,).
        share: In (0, 1]; 1 gives every index.
        seed: The same seed gives the same subset.

    Returns:
        Indices into ``labels``, ascending.
    """
    rng = np.random.default_rng([seed, 0])
    parts = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, int(np.floor(share * len(members) + 0.5)))
        parts.append(rng.permutation(members)[:count])
    return np.sort(np.concatenate(parts))


def spread(images: int, wanted: int) -> npt.NDArray[np.int64]:
    """At most ``wanted`` indices, spread evenly over ``images``."""
    return np.unique(np.linspace(0, images - 1, min(images, wanted)).round().astype(np.int64))
