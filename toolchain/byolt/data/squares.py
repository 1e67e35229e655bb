"""The squares of a set's images, decoded on all cores into one ``.npy`` file."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from numpy.lib.format import write_array_header_1_0

from byolt.data.progress import ImageProgress
from byolt.data.source import DIGEST_BYTES, FileImages, ImageSource, Pixels, UnreadableImage
from byolt_export.files import replacing
from byolt_export.runtime.resize import to_square

_WAITING_BYTES = 64e6  # Decoded squares that wait to be written, in order, at a time.


class SquareRule(NamedTuple):
    """How an image becomes a square: ``resize`` as in ``to_square``; above 8 bits grey of one channel, uint16."""

    size_px: int
    resize: str
    bit_depth: int | None = None

    @property
    def is_deep(self) -> bool:
        """Whether a square is grey of more than 8 bits."""
        return self.bit_depth is not None and self.bit_depth > 8

    @property
    def bytes(self) -> int:
        """Of one square."""
        return self.size_px * self.size_px * (2 if self.is_deep else 3)

    def read(self, source: ImageSource, index: int, *, whole: bool = False) -> Pixels:
        """Image ``index`` of a source, (S, S, C); with ``whole`` before it became a square, (H, W, C)."""
        at_least_px = None if whole else self.size_px
        if self.bit_depth is None:
            pixels = source.read(index, at_least_px)
        else:
            assert isinstance(source, FileImages)  # Of other sets a recipe takes no depth.
            pixels = source.decode(index, at_least_px, self.bit_depth).pixels
        return pixels if whole else to_square(pixels, self.size_px, self.resize)


def decode_squares(source: ImageSource, rule: SquareRule, cache: Path) -> dict[str, Any]:
    """Decode every image into ``cache``; what to keep of them beside it."""
    # Written, not mapped: a write to a map on a full disk kills the process instead of raising.
    with replacing(cache) as beside, open(beside, "wb") as file:
        return _decode_into(file, source, rule)


def _decode_into(file: BinaryIO, source: ImageSource, rule: SquareRule) -> dict[str, Any]:
    """Squares of the readable images one after the other, as one ``.npy`` file.

    Returns:
        JSON-able: the set's name, the faults of the unreadable images by number, the digest of all images' content and
        that of each where the images are files.
    """
    faults: dict[int, str] = {}
    digests: list[str] = []
    files = source if isinstance(source, FileImages) else None
    content, progress = hashlib.sha256(), ImageProgress(source.name)
    _write_header(file, len(source), rule)
    for index, (square, digest) in _squares(source, rule):
        content.update(digest)
        if files is not None:
            digests.append((digest or files.content_digest(index)).hex()[: 2 * DIGEST_BYTES])
        if isinstance(square, str):
            faults[index] = square
        else:
            file.write(square.astype(square.dtype.newbyteorder("<"), copy=False).data)
        progress(index + 1, len(source))
    if faults:
        file.seek(0)
        _write_header(file, len(source) - len(faults), rule)
    return {"source": source.name, "unreadable": faults, "content": content.hexdigest(), "digests": digests}


def _squares(source: ImageSource, rule: SquareRule) -> Iterator[tuple[int, tuple[Pixels | str, bytes]]]:
    """Square or fault, and digest, of every image by number, in order, on all cores."""

    def attempt(index: int) -> tuple[Pixels | str, bytes]:
        digest = source.digest(index)  # The file is then in memory for the decoder.
        try:
            return rule.read(source, index), digest
        except UnreadableImage as error:
            return str(error), digest

    window = max(16, int(_WAITING_BYTES / rule.bytes))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes and scales outside Python's lock.
        for start in range(0, len(source), window):
            numbers = range(start, min(start + window, len(source)))
            yield from zip(numbers, pool.map(attempt, numbers), strict=True)


def _write_header(file: BinaryIO, images: int, rule: SquareRule) -> None:
    # NumPy pads the header for a first axis that changes, so the second one is as long as the first.
    kind, channels = ("<u2", 1) if rule.is_deep else ("|u1", 3)
    shape = (images, rule.size_px, rule.size_px, channels)
    write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
