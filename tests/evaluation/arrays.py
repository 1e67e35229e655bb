"""Images in memory, for tests of what only needs ``len`` and ``batch``."""

from collections import Counter

import numpy as np
import numpy.typing as npt


class ArrayImages:
    """Counts how often each image was fetched."""

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        self.images = images
        self.fetched: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: npt.NDArray[np.int64], /) -> npt.NDArray[np.uint8]:
        self.fetched.update(indices.tolist())
        return self.images[indices]


def coloured_images(count: int, classes: int, side_px: int, seed: int) -> tuple[ArrayImages, npt.NDArray[np.int64]]:
    """Noise whose brightness depends on the class: weakly separable, as many of each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    base = 60 + 120 * labels[:, None, None, None] / classes
    images = np.clip(rng.normal(base, 40, (count, side_px, side_px, 3)), 0, 255).astype(np.uint8)
    return ArrayImages(images), labels.astype(np.int64)
