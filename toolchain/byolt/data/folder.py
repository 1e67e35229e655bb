"""Any folder of images: nested, mixed sizes and modes, labelled by sub-folder or not at all."""

import hashlib
import io
import os
import struct
import warnings
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt
from PIL import Image

from byolt.data.source import Pixels, UnreadableImage
from byolt_export.errors import InputError, first_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif")
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


class FolderSource:
    """Every image below a folder, in the order of their paths; hidden files and folders are left out."""

    def __init__(self, root: Path) -> None:
        """List the images; none is opened.

        Raises:
            InputError: The folder is missing or cannot be listed, or holds no image.
        """
        if not root.is_dir():
            raise InputError(f"image folder {root} not found; give a folder of images, for example --set data.root=DIR")
        Image.init()  # Pillow loads its formats when first needed, and threads that need them at once get half of them.
        self.root, self.name = root, f"folder {root}"
        listing = _Listing()
        try:
            for entry in _scan(root, b"", ()):
                listing.add(entry)
        except OSError as error:
            raise InputError(f"{self.name} cannot be listed: {error.strerror} ({error.filename!r})") from error
        if len(listing.ends) == 1:
            raise InputError(f"{self.name} holds no images ({', '.join(SUFFIXES)})")
        # One block of bytes: a million str objects would be copied into every worker as it touches them.
        self._paths, self._ends = bytes(listing.paths), np.array(listing.ends)
        self.fingerprint, self.cache_key = listing.fingerprint.hexdigest(), listing.cache_key.hexdigest()
        self.classes, self.labels = _classes(listing.images_below)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def read(self, index: int, at_least_px: int | None = None) -> Pixels:
        """Decode image ``index``; see ``decode_image``."""
        return self.decode(index, at_least_px).pixels

    def decode(self, index: int, at_least_px: int | None = None) -> "Decoded":
        """Image ``index`` and its mode; see ``decode_image``."""
        return decode_image(self.path(index), at_least_px)

    def digest(self, index: int) -> bytes:
        """SHA-256 of the file, not of its pixels, which another version of a decoder may round otherwise."""
        path = Path(self.path(index))
        try:
            return hashlib.sha256(path.read_bytes()).digest()
        except OSError as error:
            fault = _system_fault(path, error)
            if isinstance(fault, UnreadableImage):
                return b""  # A link to nothing.
            raise fault from error

    def path(self, index: SupportsIndex) -> str:
        """The file's path."""
        number = range(len(self))[index]  # As in a list: below 0 from the end, and none past it.
        return str(self.root / os.fsdecode(self._paths[self._ends[number] : self._ends[number + 1]]))


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
            raise _system_fault(Path(path), error) from error
        reason = first_line(error).replace(repr(opened), "it")
        raise UnreadableImage(f"image {path} cannot be read: {reason}") from error


def _system_fault(path: Path, error: OSError) -> InputError:
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


class _Entry(NamedTuple):
    path: bytes  # below the root
    size: int
    modified_ns: int


class _Listing:
    """What is kept of the entries, each in its turn: a million of them are never objects at the same time."""

    def __init__(self) -> None:
        self.paths, self.ends = bytearray(), array("q", [0])
        self.fingerprint, self.cache_key = hashlib.sha256(), hashlib.sha256()
        self.images_below: dict[bytes, int] = {}  # Images a first sub-folder, in their order; those in none below "".

    def add(self, entry: _Entry) -> None:
        self.paths += entry.path
        self.ends.append(len(self.paths))
        self.fingerprint.update(b"%s\0%d\n" % (entry.path, entry.size))
        self.cache_key.update(b"%s\0%d %d\n" % entry)
        first, slash, _ = entry.path.partition(b"/")
        folder = first if slash else b""
        self.images_below[folder] = self.images_below.get(folder, 0) + 1


def _scan(folder: Path, below: bytes, parents: tuple[tuple[int, int], ...]) -> Iterator[_Entry]:
    """The images in a folder and its own, in the order of the bytes of their paths.

    Linked folders are followed, but not back into one of the ``parents``. ``below`` is what a path starts with: empty,
    or the way from the root to here and a slash.
    """
    stat = folder.stat()
    here = (stat.st_dev, stat.st_ino)
    if here in parents:
        return
    names = []
    with os.scandir(folder) as entries:  # Not Path.iterdir: a scan knows a file from a folder without asking again.
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                names.append(os.fsencode(entry.name) + b"/")
            elif entry.name.lower().endswith(SUFFIXES) and (entry.is_file() or entry.is_symlink()):
                names.append(os.fsencode(entry.name))
    names.sort()  # With its slash a folder stands where the paths of its images do, so nothing is left to sort.
    for name in names:
        if name.endswith(b"/"):
            yield from _scan(folder / os.fsdecode(name[:-1]), below + name, (*parents, here))
        else:
            yield _Entry(below + name, *_size_and_time(f"{folder}/{os.fsdecode(name)}"))


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)  # noqa: PTH116 - a Path for each of a million files takes longer than to ask for its size
    except FileNotFoundError:
        return 0, 0  # A link to nothing: listed all the same, so that it is reported with the unreadable files.
    return stat.st_size, stat.st_mtime_ns


def _classes(images_below: dict[bytes, int]) -> tuple[tuple[str, ...], npt.NDArray[np.int64] | None]:
    """Classes by first sub-folder, only where every image lies in one and there are at least two of them."""
    if b"" in images_below or len(images_below) < 2:
        return (), None
    names = sorted(images_below)
    number = {name: k for k, name in enumerate(names)}
    # The images of a folder follow one another; the folders' own order is another, as "a-b/" comes before "a/".
    labels = np.repeat([number[name] for name in images_below], list(images_below.values()))
    return tuple(os.fsdecode(name) for name in names), labels.astype(np.int64)
