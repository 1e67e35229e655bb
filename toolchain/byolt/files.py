"""Files that are written whole or not at all, and JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from byolt_export.errors import InputError, not_written
from byolt_export.files import write_whole


def read_json(
    path: Path, *, needs: Sequence[str] = (), mend: str = "remove it, and give the command that writes it again"
) -> dict[str, Any] | None:
    """A JSON file's mapping, or None where there is no file.

    Args:
        path: The file.
        needs: Keys without which it is of no use.
        mend: What to do with a damaged one, for the fault.

    Raises:
        InputError: It is empty, cut off, no mapping, or lacks a key.
    """
    if not path.exists():
        return None
    text = path.read_bytes()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # Half a file, bytes that are no text, or a hostile one.
        content = None
    if not isinstance(content, dict) or not all(key in content for key in needs):
        raise InputError(f"{path} is {'damaged' if text.strip() else 'empty'}; {mend}")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON for people and machines, whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` of a text as UTF-8; bytes of a file's name that are none are written by number."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and the folders above it, so that a reader never sees half of it.

    Raises:
        ByoltError: The disk is full or cannot be written; what ``path`` held before stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise not_written(path, error) from error


def append_text(path: Path, text: str) -> None:
    """Append to a file, as ``write_text`` writes.

    Raises:
        ByoltError: The disk is full or cannot be written.
    """
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        raise not_written(path, error) from error
