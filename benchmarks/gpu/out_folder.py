"""What a run leaves behind, whole at every moment: a folder of few files, and the summary that tells of them.

A process can be killed between any two of its instructions, so a file appears under its name complete or not at all,
and what the summary names is there before the summary is.
"""

import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

MOST_FILES, MOST_BYTES = 8, 16_000_000
SUMMARY = "summary.json"


class OutFolder:
    """A folder of at most ``MOST_FILES`` files of at most ``MOST_BYTES`` each."""

    def __init__(self, path: Path, scratch: Path) -> None:
        """``path`` is made. Files are written in ``scratch`` or beside ``path``, on the same disk, and renamed.

        Raises:
            ValueError: ``path`` holds something already.
        """
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ValueError(f"{path} is not empty; give a folder that is, or a new one")
        self.path, self.files = path, dict[str, dict[str, Any]]()
        self._inside = False
        disk = path.stat().st_dev
        if scratch.stat().st_dev == disk:
            self._staging = scratch
        elif path.parent.stat().st_dev == disk and os.access(path.parent, os.W_OK):
            self._staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        else:  # A disk of its own: what is being written is one of the files.
            self._staging, self._inside = path, True

    def put(self, name: str, content: bytes) -> None:
        """Write a file, or another in its place.

        Raises:
            ValueError: It is too large, or one file too many.
        """
        if len(content) > MOST_BYTES:
            raise ValueError(f"{name} has {len(content)} bytes, more than {MOST_BYTES}")
        if len({*self.names(), name}) + self._inside > MOST_FILES:
            raise ValueError(f"{name} would be a file too many: {', '.join(self.names())} are there")
        beside = self._staging / f".{name}.new"
        beside.write_bytes(content)
        beside.replace(self.path / name)
        if name != SUMMARY:
            self.files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def forget(self, names: Sequence[str]) -> None:
        """Tell of these files no more; they stay until ``remove``."""
        for name in names:
            self.files.pop(name, None)

    def remove(self, names: Sequence[str]) -> None:
        """Remove files, once a summary that does not name them is written."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Names of the files that are there."""
        return sorted(entry.name for entry in self.path.iterdir() if not entry.name.endswith(".new"))

    def close(self) -> None:
        """Remove the folder beside it, where one was needed."""
        if self._staging.name.startswith(f".{self.path.name}-"):
            self._staging.rmdir()


class Summary:
    """``summary.json``: what was done so far, in the order in which it ended, and nothing that was not."""

    def __init__(self, out: OutFolder, facts: dict[str, Any]) -> None:
        """``facts`` are known from the start."""
        self.out, self._lock, self._started_s = out, threading.RLock(), time.monotonic()
        self._closed = False
        self.tree: dict[str, Any] = {"version": 1, "state": "running", "elapsed_s": 0.0, **facts}
        self.tree |= {"running": [], "steps": {}, "learning": {"evaluations": []}, "files": out.files}
        self.write()

    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started_s

    def begins(self, step: str) -> None:
        """A step has begun."""
        with self._lock:
            self.tree["running"].append(step)
            self.write()

    def ended(
        self, step: str, state: str, took_s: float = 0.0, found: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """A step has ended, and how: ``passed``, ``failed``, or why it was not taken."""
        with self._lock:
            self.tree["running"] = [name for name in self.tree["running"] if name != step]
            self.tree["steps"][step] = {"state": state, "took_s": round(took_s, 2)} | dict(found)
            self.write()
            print(f"{self.elapsed_s():6.1f} s  {step}: {state}\n", end="", flush=True)

    def state_of(self, step: str) -> str | None:
        """How a step ended; None for one that has not."""
        with self._lock:
            found: dict[str, Any] = self.tree["steps"].get(step, {})
            return found.get("state")

    def found(self, step: str) -> dict[str, Any]:
        """What a step that passed has found; empty for any other."""
        with self._lock:
            found: dict[str, Any] = self.tree["steps"].get(step, {})
            return found if found.get("state") == "passed" else {}

    def note(self, **facts: Any) -> None:
        """Facts beside the steps."""
        with self._lock:
            self.tree |= facts
            self.write()

    def learning(self, evaluation: dict[str, Any] | None = None, **facts: Any) -> None:
        """How far learning is; an evaluation on the way is kept beside those before it."""
        with self._lock:
            self.tree["learning"] |= facts
            if evaluation is not None:
                self.tree["learning"]["evaluations"].append(evaluation)
            self.write()

    def put(self, files: dict[str, bytes], instead_of: Sequence[str] = (), **facts: Any) -> None:
        """Files that belong together, told of when all of them are there; those before them go after that.

        No name is given twice: while it is replaced the summary would tell of another content.
        """
        gone = [name for name in instead_of if name not in files]
        with self._lock:
            if self._closed:
                return
            for name, content in files.items():
                self.out.put(name, content)
            self.out.forget(gone)
            self.tree |= facts
            self.write()
            self.out.remove(gone)

    def close(self) -> None:
        """Write no more: a thread that still comes has nothing to add."""
        with self._lock:
            self._closed = True
            self.out.close()

    def write(self) -> None:
        """Write all of it in place of what was there."""
        with self._lock:
            if self._closed:
                return
            self.tree["elapsed_s"] = round(self.elapsed_s(), 1)
            plain = json.dumps(self.tree, default=str)
            text = json.dumps(json.loads(plain, parse_constant=str), indent=1)  # NaN is no JSON: "NaN" is.
            try:
                self.out.put(SUMMARY, text.encode())
            except OSError as error:  # The next one may be written, and the step goes on.
                print(f"{SUMMARY} could not be written: {error}", file=sys.stderr)
