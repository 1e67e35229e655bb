"""Any folder of images: nested, mixed sizes and modes, labelled by sub-folder or not at all."""

import hashlib
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from byolt.data.source import Pixels
from byolt_export.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class FolderSource:
    """Every image below a folder, in the order of their paths."""

    def __init__(self, root: Path) -> None:
        """List the images; none is opened.

        Raises:
            InputError: The folder is missing, or holds no image.
        """
        if not root.is_dir():
            raise InputError(f"image folder {root} not found; give a folder of images, for example --set data.root=DIR")
        self.root, self.name = root, f"folder {root}"
        found = list(_scan(str(root), ""))
        if not found:
            raise InputError(f"{self.name} holds no images ({', '.join(SUFFIXES)})")
        self.paths = [path for path, _ in found]
        listing = "".join(f"{path}\0{size}\n" for path, size in found)
        self.fingerprint = hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
        firsts = [path.partition("/")[0] if "/" in path else None for path in self.paths]
        # Classes only where every image lies in a sub-folder, and there is more than one.
        names = sorted({first for first in firsts if first is not None})
        labelled = None not in firsts and len(names) > 1
        self.classes: tuple[str, ...] = tuple(names) if labelled else ()
        number = {name: k for k, name in enumerate(names)}
        self.labels = np.array([number[first] for first in firsts if first], np.int64) if labelled else None

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int, at_least_px: int | None = None) -> Pixels:
        """Decode image ``index``; a JPEG may be decoded at a half, a quarter or an eighth of its size.

        Raises:
            InputError: The file is gone, or is no image that can be read.
        """
        return read_image(self.root / self.paths[index], at_least_px)

    def path(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self.paths[index])


def read_image(path: Path, at_least_px: int | None = None) -> Pixels:
    """An image file as RGB (H, W, 3), turned upright by its EXIF orientation.

    Grey becomes three equal channels, 16-bit is scaled to 8 by its full range, palettes are looked up, CMYK is
    converted, and an alpha channel is dropped. Of several frames the first is taken.

    Raises:
        InputError: The file is gone, or is no image that can be read.
    """
    try:
        # A large image is what cameras make; Pillow's warning is not ours. Twice its limit is an error all the same.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if at_least_px is not None:
                    image.draft("RGB", (at_least_px, at_least_px))
                return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise InputError(f"image {path} is gone since the folder was listed; put it back, or start again") from error
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"image {path} cannot be read: {reason}") from error


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):  # 16 bits, whatever the container: Pillow's own conversion would clip at 255.
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("it holds floating-point pixels of unknown range; convert it to 8 or 16 bits")
    return np.asarray(image.convert("RGB"))


def _scan(root: str, below: str) -> Iterator[tuple[str, int]]:
    """(relative path, bytes) of each image, sorted within each folder."""
    with os.scandir(os.path.join(root, below)) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        relative = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir():
            yield from _scan(root, relative)
        elif entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
            yield relative, entry.stat().st_size
