"""Decoded squares, cached or streamed; damaged files are left out or replaced, up to the recipe's `corrupt_limit`."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byolt.data.decode import readable_formats
from byolt.data.order import Order, epoch_order, sharded_order
from byolt.data.shards import ShardSource
from byolt.data.source import DIGEST_BYTES, Digests, ImageSource, Labels, Pixels, UnreadableImage
from byolt.data.squares import SquareRule, decode_squares
from byolt.files import read_json
from byolt.log import warn_once
from byolt_export.errors import ByoltError, InputError
from byolt_export.files import write_whole

if TYPE_CHECKING:
    from byolt.recipe.data import Data

FORMAT = 4  # Any change of a decoded pixel, or of what is kept beside the pixels, is a new format.
_DECODE_AGAIN = "remove it and give the command again: the images are decoded once more"
_log = logging.getLogger("byolt")


class ImageStore:
    """Squares (S, S, C) of the images of a source, by number: cached ones of the readable images, or streamed ones.

    RGB of 8 bits, or with a ``bit_depth`` above 8 grey, uint16 of one channel.

    ``fingerprint`` is the identity of the images and their order, the same on every machine and for every size; part
    of the run's hash. Of a cached set it is of the images' content, of a streamed one, which is not read before it is
    learned from, of names and sizes alone: the two are never equal.

    A streamed set has every image of the source. Where one is damaged the next readable image takes its place, of the
    same class where there are labels, so that ``labels`` are those of the images shown: a function of the number alone,
    whichever process asks. Each damaged file is reported, and ends the run when there are more than the limit allows.
    """

    def __init__(
        self,
        source: ImageSource,
        rule: SquareRule,
        *,
        kept: Labels,
        content: str,
        cache: Path | None,
        corrupt_limit: float,
        digests: Digests | None = None,
    ) -> None:
        """``kept`` are the source's images that the store has, ``content`` tells what the fingerprint knows of them.

        ``cache`` holds the squares, or None to decode each time, up to ``corrupt_limit`` (a share) of damaged images.
        ``digests`` are those of the files of all the source's images; empty where it has none, None where unread.
        """
        self.source, self.rule, self.kept, self.cache = source, rule, kept, cache
        self.classes = source.classes
        self.labels: Labels | None = None if source.labels is None else source.labels[kept]
        self.fingerprint = hashlib.sha256(f"{source.fingerprint} {content}".encode()).hexdigest()
        self.images = _mapped(cache)
        self.corrupt_limit, self.digests = corrupt_limit, digests
        self.damaged: set[int] = set()
        """Images that this process has found unreadable while it streamed."""

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Pixels:
        if self.images is not None:
            return np.array(self.images[index])  # A copy: the map is read-only.
        for candidate in self._candidates(index):
            if candidate not in self.damaged:
                try:
                    return self.rule.read(self.source, int(self.kept[candidate]))
                except UnreadableImage as error:
                    self._leave_out(candidate, str(error))
        raise InputError(f"{self.path(index)} cannot be read, nor can any image that could take its place; mend them")

    def read_whole(self, index: int) -> Pixels:
        """Image ``index`` before it becomes a square, (H, W, C)."""
        return self.rule.read(self.source, int(self.kept[index]), whole=True)

    def batch(self, indices: Labels) -> Pixels:
        """Squares (B, S, S, C) at ``indices``.

        Raises:
            InputError: A file is gone, or more of them are damaged than the limit allows (streamed sets only).
        """
        if self.images is not None:
            return np.asarray(self.images[indices])
        return np.stack([self[int(index)] for index in indices])

    def path(self, index: int) -> str:
        """What to call image ``index`` in a message."""
        return self.source.path(int(self.kept[index]))

    def order(self, seed: int, epoch: int) -> Order:
        """The order of an epoch, (len(self),): by the source's kind, and the same cached or streamed."""
        if isinstance(self.source, ShardSource):
            return sharded_order(self.source.images_per_shard(self.kept), seed, epoch)
        return epoch_order(len(self), seed, epoch)

    def prefetch(self, indices: Labels) -> None:
        """Say which images will be read soon, ``prefetch_images`` before they are."""
        if self.prefetch_images and isinstance(self.source, ShardSource):
            self.source.prefetch(self.kept[indices])

    @property
    def prefetch_images(self) -> int:
        """How long before it is read an image should be expected; 0 where it is no use."""
        return self.source.prefetch_images if isinstance(self.source, ShardSource) and self.images is None else 0

    def _candidates(self, index: int) -> Iterator[int]:
        """The image itself, then those that can take its place: after the last comes the first."""
        yield index
        if self.labels is None:
            yield from range(index + 1, len(self))
            yield from range(index)
        else:
            alike = np.flatnonzero(self.labels == self.labels[index])
            yield from map(int, np.roll(alike, -1 - int(np.searchsorted(alike, index)))[:-1])

    def _leave_out(self, index: int, fault: str) -> None:
        self.damaged.add(index)
        warn_once(f"left out: {fault}")
        _refuse_above(self.corrupt_limit, len(self.damaged), self.source, f"the last: {fault}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"images": None}  # Workers map the file themselves, instead of being sent its bytes.

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self.images = _mapped(self.cache)


def open_store(
    source: ImageSource,
    size_px: int,
    resize: str,
    *,
    budget_gb: float,
    cache_dir: Path,
    corrupt_limit: float,
    bit_depth: int | None = None,
) -> ImageStore:
    """The images of a source: decoded the first time where they fit into the budget, else streamed from their files.

    Unreadable files are left out and reported when a set is decoded, up to ``corrupt_limit`` (a share of all). What
    was found is kept with the cache, so the next call opens no image. Of a set that is streamed no image is opened
    here; see ``ImageStore``.

    Raises:
        InputError: More files than the limit are unreadable, or one is gone.
        ByoltError: The cache cannot be written.
    """
    rule = SquareRule(size_px, resize, bit_depth)
    if len(source) * rule.bytes > budget_gb * 1e9:
        every = np.arange(len(source))
        # No digest is such a word, so no streamed set is taken for one whose content is known.
        return ImageStore(source, rule, kept=every, content="unread", cache=None, corrupt_limit=corrupt_limit)
    # With other formats than before, a file that could not be read may be an image.
    key = f"{FORMAT} {source.cache_key} {size_px} {resize} {' '.join(readable_formats())}"
    key += "" if bit_depth is None else f" {bit_depth} bits"
    stem = cache_dir / hashlib.sha256(key.encode()).hexdigest()[:24]
    pixels, description = stem.with_suffix(".npy"), stem.with_suffix(".json")
    if not description.exists() or not pixels.exists():
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            _check_room(cache_dir, len(source) * rule.bytes)
            write_whole(description, json.dumps(decode_squares(source, rule, pixels)))
        except OSError as error:
            raise _no_room(cache_dir, str(error.strerror)) from error
    known = read_json(description, needs=("unreadable", "content"), mend=_DECODE_AGAIN)
    assert known is not None  # It was written above, or was there.
    # Keys are the numbers of the unreadable images; JSON makes them strings.
    faults = {int(index): fault for index, fault in known["unreadable"].items()}
    for fault in faults.values():
        _log.warning("left out: %s", fault)
    _refuse_above(corrupt_limit, len(faults), source, f"the first: {next(iter(faults.values()), '')}")
    kept = np.setdiff1d(np.arange(len(source)), np.array(list(faults), np.int64))
    return ImageStore(
        source,
        rule,
        kept=kept,
        content=known["content"],
        cache=pixels,
        corrupt_limit=corrupt_limit,
        digests=np.array([bytes.fromhex(digest) for digest in known["digests"]], f"S{DIGEST_BYTES}"),
    )


def store_of(source: ImageSource, data: "Data", size_px: int) -> ImageStore:
    """``open_store`` as a recipe's data section says, at ``size_px``.

    Raises:
        InputError: ``bit_depth`` is ``auto``: what that is was to be found before, by ``with_bit_depth``.
    """
    if data.bit_depth == "auto":
        raise InputError(
            "data.bit_depth auto is looked for where byolt pretrain begins a run: write the number here, which byolt "
            "data check says"
        )
    return open_store(
        source,
        size_px,
        data.resize,
        budget_gb=data.cache_budget_gb,
        cache_dir=data.cache_dir,
        corrupt_limit=data.corrupt_limit,
        bit_depth=data.bit_depth,
    )


def _mapped(cache: Path | None) -> Pixels | None:
    try:
        return None if cache is None else np.load(cache, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise InputError(f"{cache} is damaged; {_DECODE_AGAIN}") from error


def _check_room(cache_dir: Path, wanted_bytes: int) -> None:
    free_bytes = shutil.disk_usage(cache_dir).free
    if wanted_bytes > free_bytes:
        raise _no_room(cache_dir, f"{wanted_bytes / 1e9:.1f} GB are needed and {free_bytes / 1e9:.1f} GB are free")


def _no_room(cache_dir: Path, why: str) -> ByoltError:
    return ByoltError(
        f"decoded images cannot be kept in {cache_dir} ({why}); make room, or name another folder "
        "with --set data.cache_dir=DIR, or stream them with --set data.cache_budget_gb=0"
    )


def _refuse_above(corrupt_limit: float, damaged: int, source: ImageSource, which: str) -> None:
    """The limit is a share of the whole set: a streamed one ends when it is certain that a cached one would have.

    A share of the images read so far would depend on their order, and end a run at its first image.
    """
    if damaged > corrupt_limit * len(source) or damaged == len(source):
        raise InputError(
            f"{damaged} of {len(source)} images of {source.name} cannot be read, more than data.corrupt_limit "
            f"{corrupt_limit:g} allows; {which}; see byolt data check"
        )
