"""Any folder of images: nested, mixed sizes and modes, labelled by sub-folder or not at all."""

import hashlib
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt
from PIL import Image

from byolt.data.decode import Decoded, decode_image, system_fault
from byolt.data.source import Pixels, UnreadableImage
from byolt_export.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif")


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

    def decode(self, index: int, at_least_px: int | None = None) -> Decoded:
        """Image ``index`` and its mode; see ``decode_image``."""
        return decode_image(self.path(index), at_least_px)

    def digest(self, index: int) -> bytes:
        """SHA-256 of the file, not of its pixels, which another version of a decoder may round otherwise."""
        path = Path(self.path(index))
        try:
            return hashlib.sha256(path.read_bytes()).digest()
        except OSError as error:
            fault = system_fault(path, error)
            if isinstance(fault, UnreadableImage):
                return b""  # A link to nothing.
            raise fault from error

    def path(self, index: SupportsIndex) -> str:
        """The file's path."""
        number = range(len(self))[index]  # As in a list: below 0 from the end, and none past it.
        return str(self.root / os.fsdecode(self._paths[self._ends[number] : self._ends[number + 1]]))


class _Entry(NamedTuple):
    path: bytes  # below the root
    size: int
    modified_ns: int


class _Listing:
    """What is kept of the entries, each in its turn: a million of them are never objects at the same time."""

    def __init__(self) -> None:
        self.paths, self.ends = bytearray(), array("q", [0])
        self.fingerprint, self.cache_key = hashlib.sha256(), hashlib.sha256()
        self.images_below: dict[bytes, int] = {}  # Images per first sub-folder, in their order; those in none below "".

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
