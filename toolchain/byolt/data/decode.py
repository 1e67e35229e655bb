"""One image file to pixels, upright: RGB, or grey above 8 bits; a damaged file is another fault than an absent one."""

import io
import struct
import warnings
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, UnidentifiedImageError, features

from byolt.data.source import Decoded, Pixels, UnreadableImage
from byolt_export.errors import InputError, first_line

# Formats are named, so that a file's content cannot choose a decoder of Pillow's that starts another program (EPS).
# Cameras write JPEG as MPO too, which Pillow tells apart itself.
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "GIF": (".gif",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),
    "QOI": (".qoi",),
    "PCX": (".pcx",),
    "SGI": (".sgi",),
    "TGA": (".tga",),
}
_NO_MARK = "TGA"  # Its files start with no mark, so nearly anything could be taken for one: known by the suffix alone.
# A camera's raw file is a TIFF whose first image is a thumbnail: under a suffix of its own it is no image here.
_BY_SUFFIX_ALONE = (_NO_MARK, "TIFF", "PCX", "SGI")
_CODECS = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}  # What Pillow may be built without.
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIC_EXTRA = 'pip install "byolt[heic]" reads HEIC'
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


@cache
def readable_formats() -> tuple[str, ...]:
    """The formats that are read on this machine, in Pillow's words.

    Called before threads decode: Pillow loads its formats when first needed, and threads that need them at once get
    half of them.
    """
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(
        name for name in _SUFFIXES if name in Image.OPEN and (name not in _CODECS or features.check(_CODECS[name]))
    )


@cache
def readable_suffixes() -> tuple[str, ...]:
    """Lower-case suffixes of the files that are taken for images whatever they hold."""
    return tuple(suffix for name in readable_formats() for suffix in _SUFFIXES[name])


def unreadable_because(suffix: str) -> str:
    """What an image's suffix lacks to be read here; empty for any other suffix."""
    if suffix in readable_suffixes():
        return ""
    name = next((name for name, suffixes in _SUFFIXES.items() if suffix in suffixes), None)
    if name == "HEIF":
        return HEIC_EXTRA
    return "" if name is None else f"Pillow {PIL.__version__} here reads no {name}"


def holds_image(file: Path | io.BufferedReader) -> bool:
    """Whether a file of any name starts as an image does; nothing is decoded."""
    marked = [name for name in readable_formats() if name not in _BY_SUFFIX_ALONE]
    try:
        with Image.open(file, formats=marked):
            return True
    except _DAMAGED:
        return False


def decode_image(
    path: Path | str, at_least_px: int | None = None, content: bytes | None = None, bit_depth: int | None = None
) -> Decoded:
    """An image file as RGB (H, W, 3), or grey above 8 bits (H, W, 1), turned upright by its EXIF orientation.

    Grey becomes three equal channels; 16-bit is scaled to 8 by its full range, 65535, for any other range would
    depend on the image; palettes are looked up; CMYK is converted; an alpha channel is dropped, the colours below it
    stay, as in OpenCV. Of several frames the first is taken.

    Args:
        path: The file.
        at_least_px: A JPEG may be decoded at a half, a quarter or an eighth of its size while its sides stay at least
            twice this: the last factor of two is left to the antialiased resize, so that the shortcut does not show.
        content: The file's bytes where they are at hand; ``path`` is then only what to call them.
        bit_depth: Bits that the values of files of more than 8 bits are taken to have, as they are; the white of files
            of 8 bits becomes 2^``bit_depth`` - 1. Left out, 16 bits become 8.

    Raises:
        UnreadableImage: The file is damaged, or no image, or a link to nothing.
        InputError: The file is gone, or the system cannot read it; or it holds more than ``bit_depth`` bits, or is
            colour where that is above 8.
    """
    opened = str(path) if content is None else io.BytesIO(content)
    named = str(path).lower().endswith(_SUFFIXES[_NO_MARK])
    formats = [name for name in readable_formats() if named or name != _NO_MARK]
    try:
        with Image.open(opened, formats=formats) as image:
            mode = image.mode
            if at_least_px is not None:
                image.draft(None, (2 * at_least_px, 2 * at_least_px))
            stated_white = _stated_white(image)
            turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
            upright = image if turn is None else image.transpose(turn)
            if not mode.startswith("I"):
                rgb = _to_rgb(upright)
                return Decoded(rgb if bit_depth in (None, 8) else _deep_grey(rgb, bit_depth, path), mode)
            wide = _wide_values(upright)  # Wider than 8 bits: Pillow's own conversion would clip at 255.
            values = (wide * stated_white + 32767) // 65535
            largest = int(values.max())
            if bit_depth is None:
                grey = ((wide + 128) // 257).astype(np.uint8)  # 65535 / 255 = 257, rounded half up
            else:
                _refuse_above(bit_depth, largest, path)
                grey = values.astype(np.uint8 if bit_depth == 8 else np.uint16)
            return Decoded(np.repeat(grey[:, :, None], 3 if grey.dtype == np.uint8 else 1, axis=2), mode, largest)
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise system_fault(Path(path), error) from error
        reason = first_line(error).replace(repr(opened), "it")
        if isinstance(error, UnidentifiedImageError) and "HEIF" not in readable_formats() and _is_heif(opened):
            reason = f"it is a HEIC image; {HEIC_EXTRA}"
        raise UnreadableImage(f"image {path} cannot be read: {reason}") from error


def _is_heif(opened: str | io.BytesIO) -> bool:
    if isinstance(opened, io.BytesIO):
        head = opened.getvalue()[:12]
    else:
        with open(opened, "rb") as file:
            head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def system_fault(path: Path, error: OSError) -> InputError:
    """What the system says of an image file, as one sentence."""
    if not isinstance(error, FileNotFoundError):
        return InputError(f"image {path} cannot be read: {error.strerror}; mend that, or move the file away")
    if path.is_symlink():
        return UnreadableImage(f"image {path} is a link to nothing")
    return InputError(f"image {path} is gone since the folder was listed; put it back, or start again")


def _stated_white(image: Image.Image) -> int:
    """The white that a PGM file states, such as 4095, which Pillow makes 65535 when it reads the pixels; else that."""
    tile = getattr(image, "tile", None)  # Of files that are not read yet.
    arguments = tile[0][3] if image.format == "PPM" and tile else None
    return int(arguments[1]) if isinstance(arguments, tuple) and image.mode.startswith("I") else 65535


def _wide_values(image: Image.Image) -> npt.NDArray[np.int64]:
    wide = np.asarray(image).astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError("it holds 32-bit pixels beyond the range of 16 bits; convert it to 8 or 16 bits")
    return wide


def _refuse_above(bit_depth: int, largest: int, path: Path | str) -> None:
    if largest >= 2**bit_depth:
        raise InputError(
            f"image {path} holds {largest}, and data.bit_depth {bit_depth} ends at {2**bit_depth - 1}: give "
            f"data.bit_depth={least_depth(largest)}, or mend the file"
        )


def least_depth(largest: int) -> int:
    """The fewest of the bits that ``data.bit_depth`` takes which hold a value of 16 bits."""
    return next(bits for bits in (8, 10, 12, 14, 16) if largest < 2**bits)


def _deep_grey(rgb: Pixels, bit_depth: int, path: Path | str) -> Pixels:
    """Grey pixels of 8 bits as (H, W, 1) of more, white as white."""
    if not (rgb == rgb[:, :, :1]).all():
        raise InputError(
            f"image {path} is colour, of which 8 bits a channel are read, and above 8 bits data.bit_depth {bit_depth} "
            "is for grey images: leave the key out, or move the image away"
        )
    grey = rgb[:, :, :1].astype(np.uint32)
    deep: Pixels = ((grey * (2**bit_depth - 1) + 127) // 255).astype(np.uint16)
    return deep


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode == "F":
        raise ValueError("it holds floating-point pixels of unknown range; convert it to 8 or 16 bits")
    if image.mode == "P":  # By way of RGBA: Pillow warns when it drops a palette's transparency itself.
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
