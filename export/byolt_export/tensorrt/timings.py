"""TensorRT's timing cache on disk: on a Jetson it turns minutes of measuring into seconds."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from byolt_export.errors import InputError
from byolt_export.files import write_whole
from byolt_export.tensorrt.flavour import Flavour

_CACHE_BYTES = 256 * 2**20


class TimingCache:
    """Measured times of kernels, kept for the same build again; they fit one file, version, GPU and set of options."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, folder: Path | None, flavour: Flavour, options: Sequence[object]) -> "TimingCache | None":
        """``None`` where nothing is timed: TensorRT for RTX chooses its kernels on the user's own GPU."""
        if folder is None or flavour.name == "tensorrt_rtx":
            return None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot hold timing caches: {os.strerror(error.errno or 0)}") from error
        key = hashlib.sha256(json.dumps(options).encode()).hexdigest()
        return cls(folder / f"{key[:32]}.timing")

    def load(self) -> bytes:
        """What was kept; empty when there is nothing."""
        with suppress(OSError):
            if self.path.stat().st_size <= _CACHE_BYTES:
                return self.path.read_bytes()
        return b""

    def keep(self, cache: Any) -> None:
        """Write at one stroke. A full disk costs the next build its head start, and no more."""
        content = b"" if cache is None else bytes(cache.serialize())
        with suppress(OSError):
            write_whole(self.path, content)
