"""Small folders of images and of shards, for the tests of both."""

from pathlib import Path

import numpy as np
from PIL import Image

from byolt.data.packing import pack

IMAGES = 48
SHARD_BYTES = 20_000
"""Of the BMP files below (3,126 bytes, with header and class 4,608 + 1,024): 3 images a shard, so 16 shards."""


def image_folder(root: Path, images: int = IMAGES, classes: int = 3) -> Path:
    """Random images of 32 px, each with its number in its first pixel, in sub-folders in turn."""
    random = np.random.default_rng(0)
    for k in range(images):
        path = root / f"class {k % classes}" / f"{k:03d}.v1.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        pixels[0, 0] = (k // 256, k % 256, 0)
        Image.fromarray(pixels).save(path)
    return root


def packed_folder(folder: Path, images: int = IMAGES, shard_bytes: int = SHARD_BYTES) -> Path:
    """The shards of such a folder below ``folder``."""
    pack(image_folder(folder / "images", images), folder / "shards", shard_bytes)
    return folder / "shards"


def number_in(pixels: np.ndarray) -> int:
    """The number that ``image_folder`` wrote into an image."""
    return int(pixels[0, 0, 0]) * 256 + int(pixels[0, 0, 1])
