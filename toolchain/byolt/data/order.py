"""The order in which a run sees its images: a function of (seed, epoch) alone, whoever asks and from where.

That is what makes a resume exact: the order of an epoch can be computed again in any process and begun at any place.
"""

import numpy as np
import numpy.typing as npt

Order = npt.NDArray[np.int64]

WINDOW = 16
"""Shards whose images are mixed at a time. A constant, since another window is another order and so another run."""


def epoch_order(images: int, seed: int, epoch: int) -> Order:
    """The permutation of an epoch, (images,), a function of (seed, epoch) alone."""
    return _random(seed, epoch).permutation(images)


def sharded_order(images_per_shard: npt.NDArray[np.int64], seed: int, epoch: int, window: int = WINDOW) -> Order:
    """A permutation of an epoch, (images,), that needs at most ``window`` shards at any place.

    The shards are shuffled. The images of the one in place r come at random times in [r, r + window), so at a time t
    only shards in places (t - window, t] are being read: with each shard's worth of images one is done with and the
    next begun. Groups of ``window`` shards, each shuffled as a whole, would need all of the next group at one moment.

    Args:
        images_per_shard: (S,); images are numbered shard by shard.
        seed: Of the recipe.
        epoch: From 0.
        window: Shards in use at a time.

    Returns:
        Numbers of images, each once.
    """
    random = _random(seed, epoch)
    place = random.permutation(len(images_per_shard))
    # Stable: where two times are equal by rounding, an unstable sort's choice may differ between machines.
    times = np.repeat(place, images_per_shard) + window * random.random(int(images_per_shard.sum()))
    return np.argsort(times, kind="stable")


def _random(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, epoch]))
