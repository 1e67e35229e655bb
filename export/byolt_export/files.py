"""Files that are there whole or not at all: the one place that writes beside and renames; digests; JSON."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file beside ``path`` to write, which takes its place when the block ends without an error.

    An error, or a signal that raises, leaves what ``path`` held before and nothing beside it. Two processes that write
    the same path write two files, and the later rename wins. The file has the mode that the umask gives a new one,
    whatever the library that wrote it would have: safetensors closes its files to everybody else.

    Args:
        path: What to write; its folder must exist.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.touch()
        mode = stat.S_IMODE(beside.stat().st_mode)
        yield beside
        if stat.S_IMODE(beside.stat().st_mode) != mode:
            beside.chmod(mode)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that no reader ever sees half of it; text as UTF-8."""
    with replacing(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def dump_json(content: Any) -> bytes:
    """JSON whose bytes depend on the content alone."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
