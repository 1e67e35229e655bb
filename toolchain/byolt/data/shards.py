"""Images in the tar files of webdataset's format, read by their place in the file: a local folder, or a URL of one.

The format is webdataset's, the reader is not: docs/decisions/0011 says why.
"""

import hashlib
import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt.data.decode import decode_image, readable_formats, readable_suffixes
from byolt.data.folder_listing import class_name, shown, told_passed_over
from byolt.data.shard_cache import LEAST_KEPT, CachedShards, fetch_index
from byolt.data.shard_index import INDEX, ShardIndex, read_index, scan_shards
from byolt.data.source import Decoded, Files, Labels, Pixels
from byolt_export.errors import InputError, not_written
from byolt_export.files import replacing, sha256


class LocalShards:
    """Tar files in a folder of this machine."""

    def __init__(self, root: Path, files: tuple[str, ...]) -> None:
        """``files`` are names in ``root``."""
        self.root, self.files, self.location = root, files, str(root)

    def open(self, number: int) -> int:
        """A descriptor for reading, which the caller closes."""
        return os.open(self.root / self.files[number], os.O_RDONLY)


class ShardSource:
    """The images of a folder of shards, as an ``ImageSource``, in the order of their index."""

    def __init__(self, index: ShardIndex, files: LocalShards | CachedShards, mtimes: str = "") -> None:
        """``mtimes``: when the files were written on this machine, where that is known."""
        readable_formats()  # As in FolderSource.
        self.index, self.files = index, files
        self.name, self.labels = f"shards {shown(files.location)}", index.labels
        self.classes = tuple(class_name(os.fsencode(name)) for name in index.classes)
        self.fingerprint = index.fingerprint()
        self.cache_key = hashlib.sha256(f"{self.fingerprint} {mtimes}".encode()).hexdigest()
        self.passed_over = index.passed_over
        self._file = lru_cache(LEAST_KEPT)(self._opened)

    def __len__(self) -> int:
        return len(self.index.shard)

    def read(self, index: int, at_least_px: int | None = None) -> Pixels:
        """Decode image ``index``; see ``decode_image``."""
        return self.decode(index, at_least_px).pixels

    def decode(self, index: int, at_least_px: int | None = None, bit_depth: int | None = None) -> Decoded:
        """Image ``index`` and its mode; see ``decode_image``."""
        return decode_image(self.path(index), at_least_px, self.content(index), bit_depth)

    def content(self, index: int) -> bytes:
        """The encoded bytes of image ``index`` as they were packed.

        Raises:
            InputError: Its shard is gone, shorter than it was, or cannot be read or fetched.
            ByoltError: A fetched shard cannot be kept.
        """
        number, wanted_bytes = int(self.index.shard[index]), int(self.index.length[index])
        name = f"{self.files.location}/{self.index.files[number]}"
        try:
            content = self._file(number).read(wanted_bytes, int(self.index.offset[index]))
        except FileNotFoundError as error:
            raise InputError(f"shard {name} is gone since the folder was opened; put it back") from error
        except OSError as error:
            raise InputError(f"shard {name} cannot be read: {error.strerror}; mend that, and start again") from error
        if len(content) < wanted_bytes:
            raise InputError(f"shard {name} is shorter than its index says; copy it again")
        return content

    def digest(self, index: int) -> bytes:
        """Empty where the fingerprint holds the shards' digests, else the SHA-256 of the image's bytes."""
        return b"" if self.index.file_sha256 else hashlib.sha256(self.content(index)).digest()

    def content_digest(self, index: int) -> bytes:
        """SHA-256 of the image's bytes."""
        return hashlib.sha256(self.content(index)).digest()

    def file_list(self) -> Files:
        """Names and sizes that the images had before they were packed; a shard's digest is their version."""
        digests = self.index.file_sha256 or ("0" * 64,) * len(self.index.files)
        versions = np.array([int(digest[:15], 16) for digest in digests], np.int64)
        return Files(self.index.names, self.index.length, versions[self.index.shard])

    def path(self, index: int) -> str:
        """Where the image lies, and what it was called before it was packed."""
        file = self.index.files[int(self.index.shard[index])]
        return f"{self.files.location}/{file}/{os.fsdecode(bytes(self.index.names[index]))}"

    def images_per_shard(self, kept: Labels) -> Labels:
        """How many of the images ``kept`` lie in each shard, (S,)."""
        return np.bincount(self.index.shard[kept], minlength=len(self.index.files))

    def prefetch(self, images: npt.NDArray[np.int64]) -> None:
        """Fetch the shards of images that will be read soon, in the background where they are remote."""
        if isinstance(self.files, CachedShards):
            for number in np.unique(self.index.shard[images]).tolist():
                self.files.prefetch(number)

    @property
    def prefetch_images(self) -> int:
        """How many images before it is read an image's shard is fetched: a shard's worth, 0 where they are local."""
        return -(-len(self) // len(self.index.files)) if isinstance(self.files, CachedShards) else 0

    def remarks(self, *, labels_wanted: bool = True) -> tuple[str, ...]:
        """What a user should know of what is not in the set: files passed over."""
        over = self.index.passed_over
        return (f"files passed over: {told_passed_over(over)}",) if over else ()

    def verify(self) -> None:
        """Compare the SHA-256 of every shard of a local folder with the index; those of a URL are, when fetched.

        Raises:
            InputError: One differs; the message names it.
        """
        for name, expected in zip(self.index.files, self.index.file_sha256, strict=False):
            path = Path(self.files.location) / name
            if (found := sha256(path)) != expected:
                raise InputError(
                    f"shard {path} was changed since it was packed (SHA-256 {found[:12]}, its index says "
                    f"{expected[:12]}); copy it again"
                )

    def _opened(self, number: int) -> "_Descriptor":
        return _Descriptor(self.files.open(number))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._file = lru_cache(LEAST_KEPT)(self._opened)


class _Descriptor:
    """An open file that is closed when nobody reads it any more, whichever thread that is."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def read(self, length: int, offset: int) -> bytes:
        # pread moves no position, so threads, and workers that were forked, can share the descriptor.
        return os.pread(self.descriptor, length, offset)

    def __del__(self) -> None:
        os.close(self.descriptor)


def holds_shards(root: Path) -> bool:
    """Whether a folder is one of shards."""
    return (root / INDEX).is_file() or bool(_tar_files(root))


def open_folder(root: Path, cache_dir: Path | None) -> ShardSource:
    """The shards in a local folder, with their own index, or with one made of their headers.

    One that was made is kept in ``cache_dir``, unless that is None.

    Raises:
        InputError: The folder is missing, or holds no shards, or not those that its index names.
        ByoltError: The index cannot be kept.
    """
    if not holds_shards(root):
        raise InputError(
            f"{root} is no folder of shards: it has neither {INDEX} nor tar files; byolt data pack writes one"
        )
    stored = root / INDEX
    try:
        index = read_index(stored.read_bytes(), str(stored)) if stored.is_file() else _scanned(root, cache_dir)
        stats = [(root / name).stat() for name in index.files]
    except FileNotFoundError as error:
        raise InputError(
            f"shard {error.filename} is missing, but {stored} names it; copy the folder again, whole"
        ) from error
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error.strerror} ({error.filename})") from error
    for name, stat, wanted_bytes in zip(index.files, stats, index.file_bytes.tolist(), strict=True):
        if stat.st_size != wanted_bytes:
            raise InputError(
                f"shard {root / name} has {stat.st_size} bytes, its index says {wanted_bytes}; copy it again, whole"
            )
    return ShardSource(index, LocalShards(root, index.files), " ".join(str(stat.st_mtime_ns) for stat in stats))


def open_url(url: str, cache_dir: Path, budget_gb: float) -> ShardSource:
    """The shards of a folder at a http, https, s3, gs or file URL, fetched one by one as they are needed.

    Raises:
        InputError: There is no index, or it cannot be fetched, or ``budget_gb`` holds too few shards.
        MissingPart: The library for such URLs is not installed.
    """
    index = read_index(fetch_index(url), f"{url.rstrip('/')}/{INDEX}")
    if not index.file_sha256:
        raise InputError(f"{url}/{INDEX} holds no digests, so what is fetched cannot be checked; pack the images again")
    needed_bytes = int(np.sort(index.file_bytes)[::-1][:LEAST_KEPT].sum())
    if needed_bytes > budget_gb * 1e9:
        raise InputError(
            f"data.shard_cache_gb {budget_gb:g} is too small for {url}: {LEAST_KEPT} shards are kept at a time; "
            f"give --set data.shard_cache_gb={math.ceil(needed_bytes / 1e6) / 1e3:g} or more, or pack smaller shards"
        )
    return ShardSource(index, CachedShards(url, index, cache_dir / "shards", budget_gb))


def _tar_files(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*.tar") if not path.name.startswith("."))


def _scanned(root: Path, cache_dir: Path | None) -> ShardIndex:
    """The index of others' shards: kept in ``cache_dir`` under their names, sizes and times."""
    files = _tar_files(root)
    if cache_dir is None:
        return scan_shards(root, files)
    digest = hashlib.sha256(repr(readable_suffixes()).encode())
    for name in files:
        stat = (root / name).stat()
        digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    kept = cache_dir / f"index-{digest.hexdigest()[:24]}.npz"
    if kept.exists():
        return read_index(kept.read_bytes(), str(kept))
    index = scan_shards(root, files)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as beside, open(beside, "wb") as file:
            index.write(file)
    except OSError as error:
        raise not_written(kept, error) from error
    return index
