"""Images for a page: PNG data URIs of squares, and a map of thumbnails."""

import base64
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

Pixels = npt.NDArray[np.uint8]
MOST_PX = 64
"""Side of a sample image at most; larger ones would make the page large."""
_THUMB_PX = 26
_MAP_PX = (1040, 700)


def data_uri(png: bytes) -> Markup:
    """A PNG file as an address that holds it; needs no escaping."""
    return Markup("data:image/png;base64," + base64.b64encode(png).decode())


def picture(path: Path) -> tuple[Markup, int, int] | None:
    """A PNG file as a data URI with its width and height, or None where there is none that can be read."""
    try:
        png = path.read_bytes()
        with Image.open(io.BytesIO(png)) as image:
            return data_uri(png), image.width, image.height
    except OSError:
        return None


def square(pixels: Pixels) -> Markup:
    """One image (S, S, 3), scaled down where it is large, as a data URI."""
    return data_uri(_png(_scaled(pixels, MOST_PX)))


def thumbnail_map(images: Pixels, points: npt.NDArray[np.float64]) -> tuple[Markup, int, int]:
    """Thumbnails at their points, as a data URI with width and height; one that would hide another is left out."""
    width, height = _MAP_PX
    low, high = points.min(0), points.max(0)
    scaled = (points - low) / np.maximum(high - low, 1e-12)
    ground = Image.new("RGBA", _MAP_PX, (0, 0, 0, 0))
    placed: list[tuple[int, int]] = []
    for image, (x, y) in zip(images, scaled, strict=True):
        left, top = round(x * (width - _THUMB_PX)), round((1 - y) * (height - _THUMB_PX))  # y points up in charts.
        if all(abs(left - a) >= _THUMB_PX or abs(top - b) >= _THUMB_PX for a, b in placed):
            placed.append((left, top))
            small = Image.fromarray(image).resize((_THUMB_PX, _THUMB_PX), Image.Resampling.BILINEAR)
            ground.paste(small, (left, top))
    return data_uri(_png(ground)), width, height


def _scaled(pixels: Pixels, most_px: int) -> Image.Image:
    image = Image.fromarray(pixels)
    if max(image.size) > most_px:
        return image.resize((most_px, most_px), Image.Resampling.BILINEAR)
    return image


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()
