"""Who writes in a run's folder: a lock that the system takes back when its process ends, however it ends.

``flock`` knows no dead holder. What is written into the file is for the sentence alone.
"""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from byolt_export.errors import InputError

NAME = "run.lock"
"""It stays in the folder when the lock is given back: removed, two processes could hold one each."""
_ATTEMPTS, _PAUSE_S = 20, 0.05  # Who asks whether a lock is held, holds it for a moment.
_held: set[int] = set()
_log = logging.getLogger("byolt")


def lock(file: int | IO[str] | IO[bytes], operation: int = fcntl.LOCK_EX) -> bool | None:
    """``flock``: whether it is held now, or None on a file system that has no locks (some of NFS, Lustre, FUSE)."""
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    except OSError:  # ENOLCK, ENOTSUP, ENOSYS, EINVAL, EIO: each file system has its own.
        return None
    return True


@contextmanager
def sole_writer(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder's lock; where its file system has none, say so and go on.

    Args:
        folder: Of a run.
        doing: What is done to it meanwhile: learned, fine-tuned.

    Raises:
        InputError: Another process writes there; the message says which, and since when.
    """
    file = _opened(folder / NAME)
    if file is None:
        yield
        return
    _held.add(file)
    try:
        held = _lock_soon(file)
        if held is False:
            raise InputError(f"{folder} {_in_words(folder)}")
        if held is None:
            _log.info("%s: this file system has no locks; see that no other process writes there", folder)
        with suppress(OSError):  # A full disk: it is for the sentence alone.
            _sign(file, doing)
        yield
    finally:
        if file in _held:  # Not in a forked process.
            _held.remove(file)
            os.close(file)


def writer(folder: Path) -> str | None:
    """What is done in a folder now and by which process, to follow the folder's name; None where its lock is free."""
    try:
        with open(folder / NAME, "rb") as file:
            return _in_words(folder) if lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB) is False else None
    except OSError:
        return None


def _opened(path: Path) -> int | None:
    """None where it cannot be written: the first other file that is written there says why."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return None


def _lock_soon(file: int) -> bool | None:
    for _ in range(_ATTEMPTS):
        held = lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if held is not False:
            return held
        time.sleep(_PAUSE_S)
    return False


def _sign(file: int, doing: str) -> None:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    os.ftruncate(file, 0)
    os.write(
        file, json.dumps({"doing": doing, "pid": os.getpid(), "host": socket.gethostname(), "since": now}).encode()
    )


def _in_words(folder: Path) -> str:
    try:
        holder = json.loads((folder / NAME).read_text(encoding="utf-8"))
        since = datetime.fromisoformat(holder["since"]).astimezone()
        today = since.date() == datetime.now(since.tzinfo).date()
        when = f"{since:%H:%M}" if today else f"{since:%Y-%m-%d %H:%M}"
        there = "" if holder["host"] == socket.gethostname() else f" on {holder['host']}"
        who = f"is being {holder['doing']} now by process {holder['pid']}{there} since {when}"
    except (OSError, ValueError, KeyError, TypeError):  # Not written yet, or by a full disk.
        who = "is being written now by another process"
    return f"{who}; wait until it has ended, or stop it"


def _let_go() -> None:
    """In a forked process: its copies would hold the locks on when the process that took them is gone."""
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
