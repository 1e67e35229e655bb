"""Frames of any size as the squares that a bundle takes: the resize that the training did, byte for byte."""

from collections.abc import Iterable

import numpy as np

from byolt_export.arrays import Frames, Images
from byolt_export.bundle.manifest import Input
from byolt_export.errors import InputError, MissingPart


def to_square(pixels: Images, size_px: int, resize: str) -> Images:
    """A frame (H, W, 3) as a square (S, S, 3).

    ``crop`` cuts out the centre square of the shorter side, ``squash`` takes the whole image; then antialiased
    bilinear as in Pillow. An image of that size already is left as it is.

    Raises:
        MissingPart: Pillow is not installed, and the frame has another size.
    """
    height, width = pixels.shape[:2]
    if resize == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    pixels = np.ascontiguousarray(pixels)
    if pixels.shape[:2] == (size_px, size_px):
        return pixels
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPart(
            f'Pillow is not installed, which resizes frames: pip install "byolt[export]", or give {size_px} x {size_px}'
        ) from error
    return np.asarray(Image.fromarray(pixels).resize((size_px, size_px), Image.Resampling.BILINEAR))


def to_inputs(frames: Frames, pixels: Input) -> Images:
    """Frames as one batch (N, H, W, 3) of what a bundle's files take; no frames are a batch of none.

    Args:
        frames: uint8, RGB: one (H, W, 3), a batch (N, H, W, 3), or a list of frames of any sizes.
        pixels: What the bundle takes. Where it takes whole frames of one camera, these must have exactly its size.

    Raises:
        InputError: A frame has another type or shape.
        MissingPart: Pillow is not installed, and a frame has to be resized.
    """
    each: Iterable[Images] = [frames] if isinstance(frames, np.ndarray) and frames.ndim == 3 else frames
    squares = [_input(number, frame, pixels) for number, frame in enumerate(each)]
    return np.stack(squares) if squares else np.empty((0, *pixels.shape), np.uint8)


def _input(number: int, frame: Images, pixels: Input) -> Images:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise InputError(f"frame {number} is {got}: give uint8 arrays (H, W, 3), RGB")
    if not frame.size:
        raise InputError(f"frame {number} is {frame.shape} and holds no pixel")
    if pixels.camera_px is None:
        return to_square(frame, pixels.size_px, pixels.resize)
    if frame.shape != pixels.shape:
        (height, width, _), (high, wide, _) = pixels.shape, frame.shape
        raise InputError(f"frame {number} is {wide} x {high} px, and the bundle takes {width} x {height} px alone")
    return frame
