"""What a set of undecoded images is."""

import hashlib
import unicodedata
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from byolt_export.errors import InputError

Pixels = npt.NDArray[np.unsignedinteger[Any]]
Labels = npt.NDArray[np.int64]
Digests = npt.NDArray[Any]
"""Digests of the files of N images, cut to ``DIGEST_BYTES``; empty where one could not be read, (N,)."""
DIGEST_BYTES = 16


class UnreadableImage(InputError):
    """A file whose content is no image that can be read; a store leaves it out, up to the recipe's limit."""


class Decoded(NamedTuple):
    """An image and what it was in its file."""

    pixels: Pixels
    mode: str
    """In Pillow's words."""
    largest: int | None = None
    """Of a file of more than 8 bits, the largest of its values; None of any other."""


class Files(NamedTuple):
    """The files of N images, as far as they are known without reading them."""

    names: npt.NDArray[Any]
    """What each is called in its folder, as bytes."""
    sizes: npt.NDArray[np.int64]
    """In bytes."""
    versions: npt.NDArray[np.int64]
    """Numbers that change when a file is written anew on this machine, such as its time; 0 where none is known."""

    def of(self, indices: Labels) -> "Files":
        """Those of some images."""
        return Files(*(column[indices] for column in self))


@runtime_checkable
class ImageSource(Protocol):
    """Undecoded images in a fixed order."""

    name: str
    """What to call the set in a message."""
    classes: tuple[str, ...]
    """Names of the classes; empty where there are no labels."""
    labels: Labels | None
    """Class of each image, (N,); None where there are no labels."""
    fingerprint: str
    """Identity of the images and their order as far as it is known without reading them, the same on every machine."""
    cache_key: str
    """Changes too when a file was rewritten on this machine; decoded images are kept by it."""

    def __len__(self) -> int: ...

    def read(self, index: int, at_least_px: int | None = None) -> Pixels:
        """Image ``index`` as RGB (H, W, 3); may be decoded smaller, with no side below ``at_least_px``.

        Raises:
            UnreadableImage: The file is damaged, or no image.
            InputError: The file is gone, or the system cannot read it.
        """
        ...

    def digest(self, index: int) -> bytes:
        """Identity of image ``index`` beyond the ``fingerprint``; empty where that says it all.

        Raises:
            InputError: The file is gone, or the system cannot read it.
        """
        ...

    def path(self, index: int) -> str:
        """What to call image ``index`` in a message."""
        ...


@runtime_checkable
class FileImages(ImageSource, Protocol):
    """Images that are files of the user's, who may add, change and move them."""

    def file_list(self) -> Files:
        """The images' files."""
        ...

    def decode(self, index: int, at_least_px: int | None = None, bit_depth: int | None = None) -> Decoded:
        """Image ``index`` and what it was; see ``decode.decode_image``.

        Raises: as ``read``.
        """
        ...

    def content_digest(self, index: int) -> bytes:
        """SHA-256 of image ``index`` as it is encoded; empty where there is nothing to read.

        Raises:
            InputError: The file is gone, or the system cannot read it.
        """
        ...


class ArraySource:
    """Images that lie in one array, (N, H, W, 3)."""

    def __init__(self, name: str, images: Pixels, labels: Labels | None, classes: tuple[str, ...], fingerprint: str):
        """Hold the array as it is, which may be a memory-mapped file."""
        self.name, self.images, self.labels, self.classes = name, images, labels, classes
        self.fingerprint = self.cache_key = fingerprint

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, at_least_px: int | None = None) -> Pixels:
        """Image ``index`` at its own size."""
        return np.ascontiguousarray(self.images[index])

    def digest(self, index: int) -> bytes:
        """Empty: the fingerprint is of the array's content."""
        return b""

    def path(self, index: int) -> str:
        """The set's name and the image's number."""
        return f"{self.name}, image {index}"


class PartOf:
    """Some images of a source, in the order of ``indices``."""

    def __init__(self, source: ImageSource, indices: Labels, name: str, classes: tuple[str, ...] | None = None) -> None:
        """``name`` tells this part from the others in messages.

        ``classes`` are those that labels count by, where they are others than the source's: each of the images is of
        one of them.
        """
        self.source, self.indices, self.name = source, indices, name
        self.classes = source.classes if classes is None else classes
        self.labels = None if source.labels is None else source.labels[indices]
        if classes is not None and self.labels is not None:
            number = {unicodedata.normalize("NFC", name): k for k, name in enumerate(classes)}
            as_theirs = [number.get(unicodedata.normalize("NFC", name), -1) for name in source.classes]
            self.labels = np.array(as_theirs, np.int64)[self.labels]
        self.fingerprint, self.cache_key = (
            hashlib.sha256(whole.encode() + indices.astype("<i8").tobytes()).hexdigest()
            for whole in (source.fingerprint, source.cache_key)
        )

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, at_least_px: int | None = None) -> Pixels:
        """Image ``index`` of this part."""
        return self.source.read(int(self.indices[index]), at_least_px)

    def digest(self, index: int) -> bytes:
        """That of the image in the whole source."""
        return self.source.digest(int(self.indices[index]))

    def path(self, index: int) -> str:
        """The image's name in the whole source."""
        return self.source.path(int(self.indices[index]))

    def file_list(self) -> Files:
        """Those of the whole source, which has some."""
        assert isinstance(self.source, FileImages)
        return self.source.file_list().of(self.indices)

    def decode(self, index: int, at_least_px: int | None = None, bit_depth: int | None = None) -> Decoded:
        """Image ``index`` of this part, of a source of files."""
        assert isinstance(self.source, FileImages)
        return self.source.decode(int(self.indices[index]), at_least_px, bit_depth)

    def content_digest(self, index: int) -> bytes:
        """That of the image in the whole source."""
        assert isinstance(self.source, FileImages)
        return self.source.content_digest(int(self.indices[index]))
