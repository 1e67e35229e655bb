"""One image file to RGB pixels: upright, 8 bits, three channels; a damaged file is another fault than an absent one."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from byolt.data.source import Pixels, UnreadableImage
from byolt_export.errors import InputError, first_line

# Named, so that a file's content cannot choose a decoder of Pillow's that starts another program (EPS).
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
# What Pillow raises on damaged content; an OSError with a number is the system's and no fault of the image.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Line-scan cameras make images of more than Pillow's 89 million pixels; at twice that it is an error, and stays one.
# Set once: warnings.catch_warnings in the threads that decode would leave the filters in any state.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Decoded(NamedTuple):
    """An image and what it was in its file."""

    pixels: Pixels
    mode: str


def decode_image(path: Path | str, at_least_px: int | None = None, content: bytes | None = None) -> Decoded:
    """An image file as RGB (H, W, 3), turned upright by its EXIF orientation, and its mode in Pillow's words.

    Grey becomes three equal channels; 16-bit is scaled to 8 by its full range, 65535, for any other range would
    depend on the image; palettes are looked up; CMYK is converted; an alpha channel is dropped, the colours below it
    stay, as in OpenCV. Of several frames the first is taken.

    Args:
        path: The file.
        at_least_px: A JPEG may be decoded at a half, a quarter or an eighth of its size while its sides stay at least
            twice this: the last factor of two is left to the antialiased resize, so that the shortcut does not show.
        content: The file's bytes where they are at hand; ``path`` is then only what to call them.

    Raises:
        UnreadableImage: The file is damaged, or no image, or a link to nothing.
        InputError: The file is gone, or the system cannot read it.
    """
    opened = str(path) if content is None else io.BytesIO(content)
    try:
        with Image.open(opened, formats=_FORMATS) as image:
            mode = image.mode
            if at_least_px is not None:
                image.draft(None, (2 * at_least_px, 2 * at_least_px))
            turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
            return Decoded(_to_rgb(image if turn is None else image.transpose(turn)), mode)
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise system_fault(Path(path), error) from error
        reason = first_line(error).replace(repr(opened), "it")
        raise UnreadableImage(f"image {path} cannot be read: {reason}") from error


def system_fault(path: Path, error: OSError) -> InputError:
    """What the system says of an image file, as one sentence."""
    if not isinstance(error, FileNotFoundError):
        return InputError(f"image {path} cannot be read: {error.strerror}; mend that, or move the file away")
    if path.is_symlink():
        return UnreadableImage(f"image {path} is a link to nothing")
    return InputError(f"image {path} is gone since the folder was listed; put it back, or start again")


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):  # Wider than 8 bits: Pillow's own conversion would clip at 255.
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("it holds 32-bit pixels beyond the range of 16 bits; convert it to 8 or 16 bits")
        grey = ((wide + 128) // 257).astype(np.uint8)  # 65535 / 255 = 257, rounded half up
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("it holds floating-point pixels of unknown range; convert it to 8 or 16 bits")
    if image.mode == "P":  # By way of RGBA: Pillow warns when it drops a palette's transparency itself.
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
