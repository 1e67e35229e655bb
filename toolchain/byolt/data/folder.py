"""Any folder of images: nested, mixed sizes and modes, labelled by sub-folder or not at all."""

import hashlib
import os
from pathlib import Path
from typing import Protocol, SupportsIndex, runtime_checkable

import numpy as np

from byolt.data.decode import decode_image, readable_suffixes, system_fault
from byolt.data.folder_listing import (
    Listing,
    class_name,
    classes_as,
    classes_by_folder,
    shown,
    some,
    told_passed_over,
    why_no_labels,
)
from byolt.data.source import Decoded, Files, ImageSource, Pixels, UnreadableImage
from byolt.log import warn_once
from byolt_export.errors import InputError


class FolderSource:
    """Every image below a folder, in the order of their paths; hidden files and folders are left out."""

    def __init__(self, root: Path, like: ImageSource | None = None) -> None:
        """List the images; none is decoded.

        Args:
            root: The folder.
            like: Images whose classes these have, though of some there may be none here. Left out, the first
                sub-folders are classes where every image lies in one and at least two of them hold images.

        Raises:
            InputError: The folder is missing or cannot be listed, or holds no image, or other classes.
        """
        if not root.is_dir():
            raise InputError(f"image folder {root} not found; give a folder of images, for example --set data.root=DIR")
        self.root, self.name = root, f"folder {shown(str(root))}"
        suffixes = readable_suffixes()  # It loads Pillow's formats.
        try:
            listing = Listing(root)
        except OSError as error:
            raise InputError(f"{self.name} cannot be listed: {error.strerror} ({error.filename!r})") from error
        self.passed_over = dict(listing.passed_over)
        """How many files are no image here, by suffix."""
        if len(listing.ends) == 1:
            over = f"; {told_passed_over(self.passed_over)} passed over" if self.passed_over else ""
            raise InputError(f"{self.name} holds no images ({', '.join(suffixes)}){over}")
        # One block of bytes: a million str objects would be copied into every worker as it touches them.
        self._paths, self._ends = bytes(listing.paths), np.array(listing.ends)
        self._sizes, self._modified_ns = np.array(listing.sizes), np.array(listing.modified_ns)
        self.fingerprint, self.cache_key = listing.fingerprint.hexdigest(), listing.cache_key.hexdigest()
        of = classes_by_folder(listing) if like is None else classes_as(listing, like, root)
        self.classes, self.labels = of
        self.empty_folders = tuple(class_name(name) for name in listing.folders if name not in listing.images_below)
        """First sub-folders without an image."""
        self.why_no_labels = why_no_labels(listing) if self.labels is None else ""
        self._may_be_classes = len(listing.folders) > 1

    def __len__(self) -> int:
        return len(self._ends) - 1

    def read(self, index: int, at_least_px: int | None = None) -> Pixels:
        """Decode image ``index``; see ``decode_image``."""
        return self.decode(index, at_least_px).pixels

    def decode(self, index: int, at_least_px: int | None = None, bit_depth: int | None = None) -> Decoded:
        """Image ``index`` and its mode; see ``decode_image``."""
        return decode_image(self.path(index), at_least_px, bit_depth=bit_depth)

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

    def content_digest(self, index: int) -> bytes:
        """``digest``: it is of the content alone."""
        return self.digest(index)

    def path(self, index: SupportsIndex) -> str:
        """The file's path."""
        return str(self.root / os.fsdecode(self._name(index)))

    def file_list(self) -> Files:
        """The files' paths below the folder, their sizes and times."""
        names = np.array([self._name(k) for k in range(len(self))], np.bytes_)
        return Files(names, self._sizes, self._modified_ns)

    def _name(self, index: SupportsIndex) -> bytes:
        number = range(len(self))[index]  # As in a list: below 0 from the end, and none past it.
        return self._paths[self._ends[number] : self._ends[number + 1]]

    def remarks(self, *, labels_wanted: bool = True) -> tuple[str, ...]:
        """What a user should know of what is not in the set: files passed over, empty folders, why no labels."""
        told = []
        if self.passed_over:
            told.append(f"files passed over: {told_passed_over(self.passed_over)}")
        if self.empty_folders:
            told.append(f"no images in the sub-folders {some(list(self.empty_folders))}")
        if labels_wanted and self.labels is None and self._may_be_classes:
            told.append(f"no labels: {self.why_no_labels}")
        return tuple(told)


@runtime_checkable
class Remarkable(Protocol):
    """A set that knows what is not in it."""

    name: str

    def remarks(self, *, labels_wanted: bool = True) -> tuple[str, ...]:
        """As ``FolderSource.remarks``."""
        ...


def tell_remarks(source: Remarkable, *, labels_wanted: bool = True) -> None:
    """Warn of what is not in a set, once in this process."""
    for remark in source.remarks(labels_wanted=labels_wanted):
        warn_once(f"{source.name}: {remark}")
