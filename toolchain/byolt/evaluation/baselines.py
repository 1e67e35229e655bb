"""What no learning gives: features of raw pixels and colours, to stand beside the encoder's.

The fourth baseline, the untrained encoder, is ``features.embed`` of the encoder as built by the recipe's
seed: eval mode, BatchNorm at its initial statistics (mean 0, variance 1), the same preprocessing.
Axes: N images of a store, S their side, s the side after pooling.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor

from .features import Images, batches

PIXEL_SIDE_PX = 32
"""Images above this side are pooled to it: the linear probe's cost grows with the cube of the dimensions."""
COLOUR_BINS = 8
"""Bins a channel of the joint histogram: 8 * 8 * 8 = 512 dimensions."""


def pixel_features(images: Images, batch_size: int = 1024) -> Float32[Tensor, "N D"]:
    """RGB pixels in 0 to 1, averaged down to at most 32 x 32, as vectors of D = 3 s s."""
    parts = []
    for batch in batches(images, batch_size):
        side = min(PIXEL_SIDE_PX, batch.shape[1])
        pixels = batch.permute(0, 3, 1, 2).float() / 255
        parts.append(F.adaptive_avg_pool2d(pixels, side).flatten(1))
    return torch.cat(parts)


def colour_features(images: Images, batch_size: int = 1024) -> Float32[Tensor, "N 512"]:
    """Square root of the joint 8 x 8 x 8 RGB histogram, so that dot products are Hellinger affinities."""
    return torch.cat([_histogram(batch).sqrt() for batch in batches(images, batch_size)])


def _histogram(batch: UInt8[Tensor, "B S S 3"]) -> Float32[Tensor, "B 512"]:
    """Share of each image's pixels in each colour cell; rows sum to 1."""
    red, green, blue = (batch.flatten(1, 2).long() * COLOUR_BINS // 256).unbind(2)
    cells = (red * COLOUR_BINS + green) * COLOUR_BINS + blue
    counts = torch.zeros(len(batch), COLOUR_BINS**3).scatter_add_(1, cells, torch.ones(cells.shape))
    return counts / cells.shape[1]
