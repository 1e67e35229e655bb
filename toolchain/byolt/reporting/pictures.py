"""Images for a page, as addresses that hold them: squares, and a map of thumbnails."""

import base64
import io

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

MOST_PX = 64
"""Side of a sample image at most; larger ones would make the page large."""
_THUMB_PX = 26
_MAP_PX = (1040, 700)


def data_uri(content: bytes, kind: str = "png") -> Markup:
    """A file of an image as an address that holds it; needs no escaping."""
    return Markup(f"data:image/{kind};base64,{base64.b64encode(content).decode()}")


def square(pixels: npt.NDArray[np.uint8]) -> Markup:
    """One image (S, S, 3), scaled down where it is large."""
    image = Image.fromarray(pixels)
    image.thumbnail((MOST_PX, MOST_PX), Image.Resampling.BILINEAR)
    return _png(image)


def thumbnail_map(images: npt.NDArray[np.uint8], points: npt.NDArray[np.float64]) -> Markup:
    """Thumbnails at their points; one that would hide another is left out."""
    low, high = points.min(0), points.max(0)
    places = (points - low) / np.maximum(high - low, 1e-12)
    places[:, 1] = 1 - places[:, 1]  # y points up in charts.
    places = (places * (np.array(_MAP_PX) - _THUMB_PX)).round().astype(np.int64)
    ground = Image.new("RGBA", _MAP_PX, (0, 0, 0, 0))
    taken = np.empty((0, 2), np.int64)
    for image, place in zip(images, places, strict=True):
        if (np.abs(taken - place).max(1) >= _THUMB_PX).all():
            taken = np.concatenate([taken, place[None]])
            small = Image.fromarray(image).resize((_THUMB_PX, _THUMB_PX), Image.Resampling.BILINEAR)
            ground.paste(small, tuple(place.tolist()))
    return _png(ground)


def _png(image: Image.Image) -> Markup:
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return data_uri(file.getvalue())
