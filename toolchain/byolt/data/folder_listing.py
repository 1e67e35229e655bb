"""What lies below a folder: its images, the files that are none, and the classes that its sub-folders say."""

import os
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from byolt.data.decode import holds_image, readable_suffixes, unreadable_because
from byolt.data.source import ImageSource
from byolt_export.errors import InputError

# Files that are never looked into: beside a million images may lie a million of them. Copies of an image under a name
# of their own (exiftool's, an editor's) would stand in both parts of a split, and so would a camera's thumbnails.
_NO_IMAGES = (
    *(".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".md", ".html", ".pdf", ".cls"),
    *(".npy", ".npz", ".pt", ".pkl", ".py", ".zip", ".tar", ".gz", ".mp4", ".mov", ".avi", ".mkv", ".db", ".log"),
    *("~", ".bak", ".orig", "_original", ".old", ".tmp", ".part", ".crdownload", ".thm"),
)
SHOWN = 5


class _Entry(NamedTuple):
    path: bytes  # below the root
    size: int
    modified_ns: int


class Listing:
    """What is kept of the images, each in its turn: a million of them are never objects at the same time."""

    def __init__(self, root: Path) -> None:
        """List a folder and its own; no image is opened.

        Raises:
            OSError: The system cannot list a folder.
        """
        self.paths, self.ends = bytearray(), array("q", [0])
        self.sizes, self.modified_ns = array("q"), array("q")
        self.fingerprint, self.cache_key = sha256(), sha256()
        self.images_below: dict[bytes, int] = {}
        """Images per first sub-folder, in their order; those in none below ``b""``."""
        self.folders: list[bytes] = []
        """First sub-folders, those without an image too."""
        self.loose = b""
        """The first image that lies in no sub-folder."""
        self.passed_over: Counter[str] = Counter()
        """Files that are no image here, by their suffix."""
        for entry in self._scan(root, b"", ()):
            self._add(entry)

    def _add(self, entry: _Entry) -> None:
        self.paths += entry.path
        self.ends.append(len(self.paths))
        self.sizes.append(entry.size)
        self.modified_ns.append(entry.modified_ns)
        self.fingerprint.update(b"%s\0%d\n" % (entry.path, entry.size))
        self.cache_key.update(b"%s\0%d %d\n" % entry)
        first, slash, _ = entry.path.partition(b"/")
        folder = first if slash else b""
        self.loose = self.loose or (b"" if slash else first)
        self.images_below[folder] = self.images_below.get(folder, 0) + 1

    def _scan(self, folder: Path, below: bytes, parents: tuple[tuple[int, int], ...]) -> Iterator[_Entry]:
        """The images in a folder and its own, in the order of the bytes of their paths; hidden ones are left out.

        Linked folders are followed, but not back into one of the ``parents``. ``below`` is what a path starts with:
        empty, or the way from the root to here and a slash.
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
                elif self._is_image(entry):
                    names.append(os.fsencode(entry.name))
        names.sort()  # With its slash a folder stands where the paths of its images do, so nothing is left to sort.
        if not parents:
            self.folders = [name[:-1] for name in names if name.endswith(b"/")]
        for name in names:
            if name.endswith(b"/"):
                yield from self._scan(folder / os.fsdecode(name[:-1]), below + name, (*parents, here))
            else:
                yield _Entry(below + name, *_size_and_time(f"{folder}/{os.fsdecode(name)}"))

    def _is_image(self, entry: "os.DirEntry[str]") -> bool:
        """By its suffix, or else by what it holds; a file that is none is counted."""
        by_name = is_image_name(entry.name)
        if by_name:
            return entry.is_file() or entry.is_symlink()
        if not entry.is_file():
            return False
        if by_name is None and holds_image(Path(entry.path)):
            return True
        self.passed_over[suffix_of(entry.name)] += 1
        return False


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)  # noqa: PTH116 - a Path for each of a million files takes longer than to ask for its size
    except FileNotFoundError:
        return 0, 0  # A link to nothing: listed all the same, so that it is reported with the unreadable files.
    return stat.st_size, stat.st_mtime_ns


def is_image_name(name: str) -> bool | None:
    """Whether a file of that name is taken for an image; None where that hangs on what it holds."""
    if name.lower().endswith(readable_suffixes()):
        return True
    return False if name.lower().endswith(_NO_IMAGES) or unreadable_because(suffix_of(name)) else None


def suffix_of(name: str) -> str:
    """A file's suffix in lower case; ``no suffix`` where it has none."""
    return shown(os.path.splitext(name)[1].lower()) or "no suffix"  # noqa: PTH122 - as in _size_and_time


def shown(name: str | bytes) -> str:
    """A name of the file system as one line of text; bytes that are no UTF-8, and control characters, by number."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def class_name(folder: bytes) -> str:
    """A folder's name as a class: macOS writes an accent as a letter of its own (NFD), others as one letter (NFC)."""
    return unicodedata.normalize("NFC", shown(folder))


def told_passed_over(counts: Mapping[str, int]) -> str:
    """How many files are no image here, by suffix, the most common first, and what would read them."""
    most = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    by_suffix = [
        f"{suffix} {count:,}" + (f" ({unreadable_because(suffix)})" if unreadable_because(suffix) else "")
        for suffix, count in most
    ]
    # What another package would read is told however rare it is.
    told = [row for k, row in enumerate(by_suffix) if k < SHOWN or row.endswith(")")]
    rest = sum(counts.values()) - sum(count for row, (_, count) in zip(by_suffix, most, strict=True) if row in told)
    return ", ".join([*told, *([f"others {rest:,}"] if rest else [])])


class Classes(NamedTuple):
    """Classes by first sub-folder."""

    names: tuple[str, ...]
    """Empty where there are no labels."""
    labels: npt.NDArray[np.int64] | None
    """Class of each image, (N,); None where there are no labels."""


def classes_by_folder(listing: Listing) -> Classes:
    """Classes only where every image lies in a sub-folder and at least two of these hold any."""
    names = tuple(dict.fromkeys(class_name(folder) for folder in sorted(listing.images_below)))
    if listing.loose or len(names) < 2:
        return Classes((), None)
    return Classes(names, _labels(listing, {name: k for k, name in enumerate(names)}))


def classes_as(listing: Listing, like: ImageSource, root: Path) -> Classes:
    """The classes of ``like``, of which some may have no image in the folder ``root``.

    Raises:
        InputError: An image lies in no sub-folder, or in one of another name.
    """
    known = {unicodedata.normalize("NFC", name): k for k, name in enumerate(like.classes)}
    if listing.loose:
        raise InputError(
            f"{root} needs one sub-folder per class, but {shown(listing.loose)} lies in none: move it into one, or away"
        )
    odd = [class_name(folder) for folder in listing.images_below if class_name(folder) not in known]
    if odd:
        empty = set(odd) & set(getattr(like, "empty_folders", ()))
        why = f"the sub-folder of {some(sorted(empty))} is empty" if empty else "it has no such sub-folder"
        raise InputError(
            f"{root} holds images of {some(odd)}, but {like.name} has none of that class to learn it from: {why}; name "
            "the sub-folders alike, or move those images away"
        )
    return Classes(like.classes, _labels(listing, known))


def _labels(listing: Listing, number: Mapping[str, int]) -> npt.NDArray[np.int64]:
    # The images of a folder follow one another; the folders' own order is another, as "a-b/" comes before "a/".
    numbers = [number[class_name(folder)] for folder in listing.images_below]
    return np.repeat(numbers, list(listing.images_below.values())).astype(np.int64)


def why_no_labels(listing: Listing) -> str:
    """What keeps the sub-folders from being classes."""
    inside = [class_name(folder) for folder in listing.images_below if folder]
    if listing.loose and inside:
        loose = listing.images_below[b""]
        more = f" and {loose - 1:,} more" if loose > 1 else ""
        lie = "lie" if loose > 1 else "lies"
        return f"{shown(listing.loose)}{more} {lie} beside the sub-folders {some(inside)}: move into one, or away"
    if listing.loose or not inside:
        return "the images lie in no sub-folders"
    return f"of the sub-folders only {inside[0]} holds images"


def some(names: list[str], most: int = SHOWN) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
