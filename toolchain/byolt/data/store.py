"""Decoded squares: once into a memory-mapped cache where the budget allows, else from the files each time."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from byolt.data.source import ImageSource, Labels, Pixels, to_square
from byolt_export.errors import ByoltError, InputError

FORMAT = 1  # Any change of a decoded pixel is a new format.
Progress = Callable[[int, int], None]
_CHUNK = 512
_log = logging.getLogger("byolt")


class ImageStore:
    """Squares (S, S, 3) of the readable images of a source, by number."""

    def __init__(self, source: ImageSource, size_px: int, resize: str, kept: Labels, cache: Path | None) -> None:
        """``kept`` are the source's readable images; ``cache`` holds their squares, or None to decode each time."""
        self.source, self.size_px, self.resize, self.kept, self.cache = source, size_px, resize, kept, cache
        self.classes = source.classes
        self.labels: Labels | None = None if source.labels is None else source.labels[kept]
        self.fingerprint = source.fingerprint
        self.images: Pixels | None = None if cache is None else np.load(cache, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Pixels:
        if self.images is not None:
            return np.asarray(self.images[index])
        return _square(self.source, int(self.kept[index]), self.size_px, self.resize)

    def batch(self, indices: Labels) -> Pixels:
        """Squares (B, S, S, 3) at ``indices``.

        Raises:
            InputError: A file is gone or has become unreadable (streamed sets only).
        """
        if self.images is not None:
            return self.images[indices]
        return np.stack([self[int(index)] for index in indices])

    def path(self, index: int) -> str:
        """What to call image ``index`` in a message."""
        return self.source.path(int(self.kept[index]))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"images": None}  # Workers map the file themselves, instead of being sent its bytes.

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self.images = None if self.cache is None else np.load(self.cache, mmap_mode="r")


def open_store(
    source: ImageSource,
    size_px: int,
    resize: str,
    *,
    budget_gb: float,
    cache_dir: Path,
    corrupt_limit: float,
    progress: Progress | None = None,
) -> ImageStore:
    """The decoded images of a source; the first time they are decoded, or checked one by one where they do not fit.

    Unreadable files are left out, and told, up to ``corrupt_limit`` (a share of all).

    Raises:
        InputError: More files than the limit are unreadable.
        ByoltError: The cache cannot be written.
    """
    cached = len(source) * size_px * size_px * 3 <= budget_gb * 1e9
    key = f"{FORMAT} {source.fingerprint} {size_px if cached else 'checked'} {resize if cached else ''}"
    stem = cache_dir / hashlib.sha256(key.encode()).hexdigest()[:24]
    pixels, told = stem.with_suffix(".npy"), stem.with_suffix(".json")
    if not told.exists() or (cached and not pixels.exists()):
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            kept, faults = _decode(source, size_px, resize, pixels if cached else None, progress)
            _refuse(source, faults, corrupt_limit)
            _write(told, {"source": source.name, "kept": None if not faults else kept, "faults": faults})
        except OSError as error:
            raise ByoltError(
                f"decoded images cannot be kept in {cache_dir} ({error.strerror}); make room, or name another folder "
                "with --set data.cache_dir=DIR, or stream them with --set data.cache_budget_gb=0"
            ) from error
    known = json.loads(told.read_text(encoding="utf-8"))
    _refuse(source, known["faults"], corrupt_limit)
    kept_images = np.arange(len(source)) if known["kept"] is None else np.array(known["kept"], np.int64)
    return ImageStore(source, size_px, resize, kept_images, pixels if cached else None)


def _decode(
    source: ImageSource, size_px: int, resize: str, cache: Path | None, progress: Progress | None
) -> tuple[list[int], list[str]]:
    """Decode every image, into ``cache`` where one is given; the readable ones and the faults of the others."""
    beside = None if cache is None else cache.with_suffix(f".{os.getpid()}.part")
    shape = (len(source), size_px, size_px, 3)
    kept: list[int] = []
    faults: list[str] = []

    def attempt(index: int) -> Pixels | str:
        try:
            return _square(source, index, size_px, resize)
        except InputError as error:
            return str(error)

    try:
        if beside is not None:
            _reserve(beside, int(np.prod(shape)))
        images = None if beside is None else open_memmap(beside, "w+", np.uint8, shape)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(source), _CHUNK):  # In parts, so that few decoded images wait at a time.
                numbers = range(start, min(start + _CHUNK, len(source)))
                for index, got in zip(numbers, pool.map(attempt, numbers), strict=True):
                    if isinstance(got, str):
                        faults.append(got)
                        continue
                    if images is not None:
                        images[len(kept)] = got
                    kept.append(index)
                if progress is not None:
                    progress(numbers[-1] + 1, len(source))
        if images is not None and beside is not None and cache is not None:
            images.flush()
            os.replace(beside, cache)
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)
    return kept, faults


def _square(source: ImageSource, index: int, size_px: int, resize: str) -> Pixels:
    return to_square(source.read(index, size_px), size_px, resize)


def _reserve(path: Path, size: int) -> None:
    """Take the room on the disk first: a write into a memory-mapped file on a full disk kills the process."""
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size + 4096)


def _refuse(source: ImageSource, faults: list[str], corrupt_limit: float) -> None:
    for fault in faults:
        _log.warning("left out: %s", fault)
    if len(faults) > corrupt_limit * len(source) or len(faults) == len(source):
        raise InputError(
            f"{len(faults)} of {len(source)} images of {source.name} cannot be read, more than data.corrupt_limit "
            f"{corrupt_limit:g} allows; the first: {faults[0]}; see byolt data check"
        )


def _write(path: Path, content: dict[str, Any]) -> None:
    beside = path.with_suffix(f".{os.getpid()}.part")
    beside.write_text(json.dumps(content), encoding="utf-8")
    os.replace(beside, path)
