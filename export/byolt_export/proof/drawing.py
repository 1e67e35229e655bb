"""What ``parity.html`` shows besides text: images as data URIs, and a histogram's bars."""

import base64
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt_export.errors import MissingPart
from byolt_export.proof.measures import HISTOGRAM_EDGES

_LEAST_PX, _MOST_PX = 192, 640  # Sides of the images shown.
_BAR_PX = 11
WIDTH_PX, HEIGHT_PX = _BAR_PX * (len(HISTOGRAM_EDGES) - 1), 90


def picture(image: npt.NDArray[np.uint8]) -> tuple[str, int, int]:
    """A PNG data URI of an image (H, W, 3), its width and height; a small one in large pixels, a large one reduced.

    Raises:
        MissingPart: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPart('Pillow is not installed, which draws images: pip install "byolt[export]"') from error
    longest = max(image.shape[:2])
    scale = max(1, math.ceil(_LEAST_PX / longest))
    pixels = Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1))
    pixels.thumbnail((_MOST_PX, _MOST_PX), Image.Resampling.BOX)
    with io.BytesIO() as buffer:
        pixels.save(buffer, "PNG", optimize=False)
        content = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/png;base64,{content}", pixels.width, pixels.height


def bars(counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """Bars of the bins that hold images: place, height in px, and what its tooltip says."""
    tallest = max(counts)
    return [
        {
            "x": k * _BAR_PX,
            "height": round(max(count / tallest * HEIGHT_PX, 2), 1),
            "count": count,
            "low": f"{HISTOGRAM_EDGES[k]:.1e}",
            "high": f"{HISTOGRAM_EDGES[k + 1]:.1e}",
        }
        for k, count in enumerate(counts)
        if count
    ]


def position(error: float) -> float:
    """Where a relative L2 stands on the histogram's axis, in px."""
    low, high = np.log10(HISTOGRAM_EDGES[0]), np.log10(HISTOGRAM_EDGES[-1])
    share = (np.log10(max(error, HISTOGRAM_EDGES[0])) - low) / (high - low)
    return round(float(min(share, 1)) * WIDTH_PX, 1)
