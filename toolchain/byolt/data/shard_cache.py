"""Shards from a URL: fetched whole when first needed, checked, and kept in a folder up to a size."""

import fcntl
import hashlib
import http.client
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from byolt.data.order import WINDOW
from byolt.data.shard_index import INDEX, ShardIndex
from byolt_export.errors import ByoltError, InputError, not_written

LEAST_KEPT = WINDOW + 2
"""Shards kept at a time: those of a window, the one that is done with last, and the one that is fetched ahead."""
ATTEMPTS = 3
BACKOFF_S = 1.0
"""Seconds before the second attempt; twice as long before each further one."""
TIMEOUT_S = 30.0
"""Seconds without a byte after which an attempt is given up."""
_BLOCK_BYTES = 1 << 20
_WORTH_ANOTHER = (408, 425, 429)  # HTTP's other answers from 400 to 499 would be the same again.


class CachedShards:
    """The shards of a URL as files of a folder, which several processes share.

    A shard is kept under its digest, so that it is fetched once whoever needs it. When the folder is full, what was
    opened longest ago goes first; whoever still has it open can read on.
    """

    remote = True

    def __init__(self, url: str, index: ShardIndex, folder: Path, budget_gb: float) -> None:
        """Nothing is fetched yet; ``folder`` stays below ``budget_gb``."""
        self.location, self.folder, self.budget_bytes = url.rstrip("/"), folder, int(budget_gb * 1e9)
        self.files, self.sha256 = index.files, index.file_sha256
        self.file_bytes: list[int] = index.file_bytes.tolist()
        self._asked: deque[int] = deque(maxlen=LEAST_KEPT)
        self._wanted: queue.SimpleQueue[int] | None = None

    def open(self, number: int) -> int:
        """A descriptor of shard ``number`` for reading; waits until it is here.

        Raises:
            InputError: It cannot be fetched, or is not what the index says.
            ByoltError: The cache cannot be written.
        """
        path = self.folder / f"{self.sha256[number]}.tar"
        try:
            with self._only_one(path.stem):
                while (descriptor := _descriptor(path)) is None:  # Never fetched, or evicted.
                    self._fetch(number, path)
                os.utime(descriptor)  # What was opened longest ago is evicted first.
                return descriptor
        except OSError as error:
            raise not_written(self.folder, error) from error

    def expect(self, number: int) -> None:
        """Fetch shard ``number`` in the background, unless it was asked for lately."""
        if number in self._asked:
            return
        self._asked.append(number)
        if self._wanted is None:
            self._wanted = queue.SimpleQueue()
            threading.Thread(target=self._fetch_wanted, args=(self._wanted,), daemon=True).start()
        self._wanted.put(number)

    def _fetch_wanted(self, wanted: "queue.SimpleQueue[int]") -> None:
        while True:
            with suppress(ByoltError):  # Whoever reads it meets the same fault, and tells it.
                os.close(self.open(wanted.get()))

    def _fetch(self, number: int, path: Path) -> None:
        part, wanted_bytes = path.with_suffix(".part"), self.file_bytes[number]
        with self._only_one("room"):
            part.unlink(missing_ok=True)
            self._make_room(wanted_bytes)
            with open(part, "wb") as file:
                file.truncate(wanted_bytes)  # It counts with its whole size from now on.

        def receive(answer: Any) -> None:
            digest, received_bytes = hashlib.sha256(), 0
            with open(part, "r+b") as file:
                while block := answer.read(_BLOCK_BYTES):
                    received_bytes += len(block)
                    if received_bytes > wanted_bytes:
                        break
                    digest.update(block)
                    _write(file, block)
            if received_bytes != wanted_bytes:
                raise _Refused(f"{received_bytes} bytes came, its index says {wanted_bytes}")
            if digest.hexdigest() != self.sha256[number]:
                raise _Refused(f"its SHA-256 is {digest.hexdigest()[:12]}, its index says {self.sha256[number][:12]}")

        try:
            _attempt(f"{self.location}/{urllib.parse.quote(self.files[number])}", receive)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, wanted_bytes: int) -> None:
        """Remove what was opened longest ago until ``wanted_bytes`` more fit; parts that nobody finished go too."""
        kept: list[tuple[int, int, Path]] = []
        for path in (*self.folder.glob("*.tar"), *self.folder.glob("*.part")):
            with suppress(FileNotFoundError):  # Another process has just finished it.
                stat = path.stat()
                kept.append((stat.st_mtime_ns, stat.st_size, path))
        excess_bytes = sum(size for _, size, _ in kept) + wanted_bytes - self.budget_bytes
        for _, size_bytes, path in sorted(kept):
            if excess_bytes <= 0:
                return
            path.unlink(missing_ok=True)
            excess_bytes -= size_bytes

    @contextmanager
    def _only_one(self, name: str) -> Iterator[None]:
        """Hold a lock of that name, on all processes and threads that share the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"{name}.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:  # Said, not left to the closing: a process forked meanwhile holds the same descriptor.
                fcntl.flock(lock, fcntl.LOCK_UN)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_wanted": None, "_asked": deque(maxlen=LEAST_KEPT)}


def fetch_index(url: str) -> bytes:
    """The ``index.npz`` of a folder of shards at a URL.

    Raises:
        InputError: It cannot be fetched; the message says why.
    """
    content = bytearray()

    def receive(answer: Any) -> None:
        content[:] = answer.read()

    _attempt(f"{url.rstrip('/')}/{INDEX}", receive)
    return bytes(content)


class _Refused(Exception):
    """What came is not what was asked for."""


def _attempt(url: str, receive: Callable[[Any], None]) -> None:
    """Give the answer of a URL to ``receive``; up to three times where another attempt may help.

    Raises:
        InputError: No attempt succeeded; names the URL and the last cause.
    """
    for attempt in range(1, ATTEMPTS + 1):
        failure = _try(url, receive)
        if failure is None:
            return
        if failure.is_final or attempt == ATTEMPTS:
            tried = "" if failure.is_final else f" in {ATTEMPTS} attempts"
            raise InputError(f"{url} cannot be fetched{tried}: {failure.cause}; mend that, and give the command again")
        time.sleep(BACKOFF_S * 2 ** (attempt - 1))


class _Failure(NamedTuple):
    cause: str
    is_final: bool
    """Another attempt would end in the same way."""


def _try(url: str, receive: Callable[[Any], None]) -> _Failure | None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            receive(answer)
    except urllib.error.HTTPError as error:
        error.close()
        is_final = 400 <= error.code < 500 and error.code not in _WORTH_ANOTHER
        return _Failure(f"the server answers {error.code} {error.reason}", is_final)
    except (OSError, http.client.HTTPException, _Refused, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        cause = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        return _Failure(cause, isinstance(reason, FileNotFoundError))
    return None


def _descriptor(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


def _write(file: Any, block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        raise not_written(Path(file.name), error) from error
