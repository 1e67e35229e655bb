"""Frames of any size as the squares that a bundle takes: the resize that the training did, byte for byte.

Axes: N images, H W pixels, S side of a square, C channels.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from byolt_export.arrays import Frames, Images
from byolt_export.bundle.image_input import Input
from byolt_export.errors import InputError, MissingPart

_WEIGHT_BITS = 22  # Of Pillow's fixed point for bytes.


def to_square(pixels: Images, size_px: int, resize: str) -> Images:
    """A frame (H, W, C) as a square (S, S, C).

    ``crop`` cuts out the centre square of the shorter side, ``squash`` takes the whole image; then antialiased
    bilinear as in Pillow, of uint16 by Pillow's arithmetic for bytes: its own for 16 bits adds a half twice. An image
    of that size already is left as it is.

    Raises:
        MissingPart: Pillow is not installed, and a frame of bytes has another size.
    """
    height, width = pixels.shape[:2]
    if resize == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    pixels = np.ascontiguousarray(pixels)
    if pixels.shape[:2] == (size_px, size_px):
        return pixels
    if pixels.dtype == np.uint16:
        narrowed = _across(pixels, size_px)
        return np.ascontiguousarray(_across(narrowed.transpose(1, 0, 2), size_px).transpose(1, 0, 2))
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPart(
            f'Pillow is not installed, which resizes frames: pip install "byolt[export]", or give {size_px} x {size_px}'
        ) from error
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR)).reshape(size_px, size_px, -1)


def _across(pixels: Images, size_px: int) -> npt.NDArray[np.uint16]:
    """Rows (H, W, C) to (H, S, C), each value rounded: the sums of integers below 2^53 are exact in float64."""
    weights = resize_weights(pixels.shape[1], size_px)
    sums = np.matmul(weights, pixels.astype(np.float64)) + (1 << (_WEIGHT_BITS - 1))
    found: npt.NDArray[np.uint16] = np.minimum(np.floor(sums / (1 << _WEIGHT_BITS)), 65535).astype(np.uint16)
    return found


def resize_weights(length: int, size_px: int) -> npt.NDArray[np.float64]:
    """Pillow's antialiased triangle filter from ``length`` to S pixels in its fixed point, (S, ``length``)."""
    scale = length / size_px
    reach = max(scale, 1.0)
    weights = np.zeros((size_px, length))
    for row, weight in enumerate(weights):
        centre = (row + 0.5) * scale
        first, end = int(max(centre - reach + 0.5, 0.0)), min(int(centre + reach + 0.5), length)
        taps = np.maximum(0.0, 1.0 - np.abs((np.arange(first, end) - centre + 0.5) * (1.0 / reach)))
        weight[first:end] = np.floor(0.5 + taps / sum(taps.tolist()) * (1 << _WEIGHT_BITS))
    return weights


def to_inputs(frames: Frames, pixels: Input) -> Images:
    """Frames as one batch (N, H, W, C) of what a bundle's files take; no frames are a batch of none.

    Args:
        frames: One (H, W, C), a batch (N, H, W, C), or a list of frames of any sizes, RGB; of a bundle of grey images
            (H, W) or (H, W, 1) each. uint8, or uint16 where the bundle's ``bit_depth`` is above 8.
        pixels: What the bundle takes. Where it takes whole frames of one camera, these must have exactly its size.

    Raises:
        InputError: A frame has another type or shape, or a value above the ``bit_depth``.
        MissingPart: Pillow is not installed, and a frame has to be resized.
    """
    each: Iterable[Images] = [frames] if isinstance(frames, np.ndarray) and _is_one(frames, pixels) else frames
    squares = [_input(number, frame, pixels) for number, frame in enumerate(each)]
    return np.stack(squares) if squares else np.empty((0, *pixels.shape), pixels.dtype)


def _is_one(frames: Images, pixels: Input) -> bool:
    """Whether an array is one frame, (H, W, C) or of grey (H, W), and no batch."""
    return frames.ndim == 2 or (frames.ndim == 3 and (pixels.channels == 3 or frames.shape[2] == 1))


def _input(number: int, frame: Images, pixels: Input) -> Images:
    given = frame
    if isinstance(frame, np.ndarray) and frame.ndim == 2 and pixels.channels == 1:
        frame = frame[..., None]
    if not isinstance(frame, np.ndarray) or frame.dtype != pixels.dtype or frame.shape[2:] != (pixels.channels,):
        got = f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
        wanted = "(H, W, 3), RGB" if pixels.channels == 3 else "(H, W) or (H, W, 1), grey"
        raise InputError(f"frame {number} is {got}: give {pixels.dtype} arrays {wanted}")
    if not frame.size:
        raise InputError(f"frame {number} is {frame.shape} and holds no pixel")
    if pixels.dtype == "uint16" and frame.max() > pixels.white:
        raise InputError(
            f"frame {number} holds {frame.max()}, and a bit_depth of {pixels.bit_depth} ends at {pixels.white}: give "
            "the camera's values with the lowest bit last"
        )
    if pixels.camera_px is None:
        return to_square(frame, pixels.size_px, pixels.resize)
    if frame.shape != pixels.shape:
        (height, width, _), (high, wide, _) = pixels.shape, frame.shape
        raise InputError(f"frame {number} is {wide} x {high} px, and the bundle takes {width} x {height} px alone")
    return frame
