"""Shards from a URL: fetched whole when first needed, checked, and kept in a folder up to a size.

fsspec transfers the bytes from http, https, s3, gs and file URLs. Digest, size limit and locks are here, since its own
caches have none: docs/decisions/0011.
"""

import errno
import fcntl
import hashlib
import os
import queue
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from byolt.data.order import WINDOW
from byolt.data.shard_index import INDEX, ShardIndex
from byolt.locks import lock
from byolt_export.errors import ByoltError, InputError, MissingPart, first_line, not_written

LEAST_KEPT = WINDOW + 2
"""Shards kept at a time: those of a window, the last one read, and the one that is fetched ahead."""
ATTEMPTS = 3
BACKOFF_S = 1.0
"""Seconds before the second attempt; twice as long before each further one."""
TIMEOUT_S = 30.0
"""Seconds without a byte after which an attempt is given up."""
_BLOCK_BYTES = 8 << 20
_RETRIED_STATUS = (408, 425, 429)  # HTTP's other answers from 400 to 499 would be the same again.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "http": ("aiohttp", "train"), "https": ("aiohttp", "train")}


class CachedShards:
    """The shards of a URL as files of a folder, which several processes share.

    A shard is kept under its digest, so that it is fetched once for all of them. When the folder is full, the shards
    opened longest ago are removed; a process that still has one open can read on.
    """

    def __init__(self, url: str, index: ShardIndex, folder: Path, budget_gb: float) -> None:
        """Nothing is fetched yet; ``folder`` stays below ``budget_gb``."""
        self.location, self.index, self.folder = url.rstrip("/"), index, folder
        self.budget_bytes = int(budget_gb * 1e9)
        self._requested: deque[int] = deque(maxlen=LEAST_KEPT)
        self._to_fetch: queue.SimpleQueue[int] | None = None

    def open(self, number: int) -> int:
        """A descriptor of shard ``number`` for reading, fetched first where it is not in the folder.

        Raises:
            InputError: It cannot be fetched, or is not what the index says.
            MissingPart: The library for such URLs is not installed.
            ByoltError: The cache cannot be written.
        """
        path = self.folder / f"{self.index.file_sha256[number]}.tar"
        try:
            with self._locked(path.stem):
                while True:  # Another process may evict it again before it is opened.
                    with suppress(FileNotFoundError):
                        descriptor = os.open(path, os.O_RDONLY)
                        os.utime(descriptor)  # What was opened longest ago is evicted first.
                        return descriptor
                    self._fetch(number, path)
        except OSError as error:
            raise not_written(self.folder, error) from error

    def prefetch(self, number: int) -> None:
        """Fetch shard ``number`` in the background, unless it was requested lately."""
        if number in self._requested:
            return
        self._requested.append(number)
        if self._to_fetch is None:
            self._to_fetch = queue.SimpleQueue()
            threading.Thread(target=self._fetch_in_background, args=(self._to_fetch,), daemon=True).start()
        self._to_fetch.put(number)

    def _fetch_in_background(self, numbers: "queue.SimpleQueue[int]") -> None:
        while True:
            with suppress(ByoltError):  # The process that reads the shard meets the same fault and raises it.
                os.close(self.open(numbers.get()))

    def _fetch(self, number: int, path: Path) -> None:
        part, wanted_bytes, wanted = path.with_suffix(".part"), int(self.index.file_bytes[number]), path.stem
        with self._locked("room"):
            part.unlink(missing_ok=True)
            self._make_room(wanted_bytes)
            with open(part, "wb") as file:
                file.truncate(wanted_bytes)  # It counts with its whole size from now on.

        def transfer(storage: Any, remote_path: str) -> None:
            digest, received_bytes = hashlib.sha256(), 0
            # With size and no read-ahead: one streamed request over HTTP, one request per block from S3 and GCS.
            with storage.open(remote_path, block_size=0, size=wanted_bytes) as remote, open(part, "r+b") as file:
                while received_bytes <= wanted_bytes and (block := remote.read(_BLOCK_BYTES)):
                    received_bytes += len(block)
                    digest.update(block)
                    file.write(block)
            if received_bytes != wanted_bytes:
                raise ValueError(f"{received_bytes} bytes came, its index says {wanted_bytes}")
            if digest.hexdigest() != wanted:
                raise ValueError(f"its SHA-256 is {digest.hexdigest()[:12]}, its index says {wanted[:12]}")

        try:
            _retried(f"{self.location}/{self.index.files[number]}", transfer)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, wanted_bytes: int) -> None:
        """Remove what was opened longest ago until ``wanted_bytes`` more fit; unfinished parts too."""
        kept: list[tuple[int, int, Path]] = []
        for path in (*self.folder.glob("*.tar"), *self.folder.glob("*.part")):
            with suppress(FileNotFoundError):  # Another process finished or removed it meanwhile.
                stat = path.stat()
                kept.append((stat.st_mtime_ns, stat.st_size, path))
        excess_bytes = sum(size for _, size, _ in kept) + wanted_bytes - self.budget_bytes
        for _, size_bytes, path in sorted(kept):
            if excess_bytes <= 0:
                return
            path.unlink(missing_ok=True)
            excess_bytes -= size_bytes

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a lock of that name across all processes and threads that share the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"{name}.lock", "wb") as file:
            lock(file)
            try:
                yield
            finally:  # Closing alone would not release it: a process forked meanwhile has a copy of the descriptor.
                lock(file, fcntl.LOCK_UN)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_to_fetch": None, "_requested": deque(maxlen=LEAST_KEPT)}


def fetch_index(url: str) -> bytes:
    """The ``index.npz`` of a folder of shards at a URL.

    Raises:
        InputError: It cannot be fetched; the message says why.
        MissingPart: The library for such URLs is not installed.
    """
    return bytes(_retried(f"{url.rstrip('/')}/{INDEX}", lambda storage, path: storage.cat_file(path)))


def _retried(url: str, transfer: Callable[[Any, str], Any]) -> Any:
    """What ``transfer`` returns for the file system and path of a URL; up to three attempts where another may help.

    Raises:
        InputError: No attempt succeeded; names the URL and the last cause.
        MissingPart: The library for such URLs is not installed.
        OSError: This machine's disk is full.
    """
    attempt = 1
    while True:
        try:
            return transfer(*_open_storage(url))
        except Exception as error:  # Each storage library has errors of its own.
            if isinstance(error, MissingPart) or getattr(error, "errno", None) in _DISK_FULL:
                raise
            cause, is_final = _explain(error)
            if is_final or attempt == ATTEMPTS:
                tried = "" if is_final else f" in {ATTEMPTS} attempts"
                raise InputError(
                    f"{url} cannot be fetched{tried}: {cause}; mend that, and give the command again"
                ) from error
        time.sleep(BACKOFF_S * 2 ** (attempt - 1))
        attempt += 1


def _open_storage(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it.

    A new one each time: a forked worker must not close, or read from, the connections of the process it came from.
    """
    scheme = url.partition(":")[0]
    options: dict[str, Any] = {}
    try:
        from fsspec.core import url_to_fs

        if scheme in ("http", "https"):
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True}  # Proxies as the environment says.
        storage, path = url_to_fs(url, skip_instance_cache=True, **options)
    except ImportError as error:
        module, extra = _EXTRAS.get(scheme, ("fsspec", "train"))
        raise MissingPart(f'{url} needs {module}, which is not installed: pip install "byolt[{extra}]"') from error
    return storage, urllib.parse.unquote(path) if scheme == "file" else path


def _explain(error: Exception) -> tuple[str, bool]:
    """Why a transfer failed, and whether another attempt would end in the same way."""
    if isinstance(error, FileNotFoundError):  # Its own words are the URL alone for some storages.
        return "no such file", True
    status = getattr(error, "status", None)  # Of an HTTP answer that is no 404.
    if isinstance(status, int):
        is_final = 400 <= status < 500 and status not in _RETRIED_STATUS
        return f"the server answers {status} {getattr(error, 'message', '')}".rstrip(), is_final
    return first_line(error), isinstance(error, PermissionError)
