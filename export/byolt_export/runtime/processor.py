"""What a speed was measured on, by name: it holds there alone."""

import os
import platform
from pathlib import Path

from byolt_export.cuda import find_gpus

_LONGEST = 200


def cpu_name() -> str:
    """The processor as the system calls it, in printable ASCII."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return plain_name((names or [platform.processor() or platform.machine()])[0])


def gpu_names() -> tuple[str, ...]:
    """The GPUs that answer, each name once."""
    return tuple(dict.fromkeys(plain_name(gpu.name) for gpu in find_gpus()[1]))


def cpu_threads(threads: int | None = None) -> int:
    """Threads of one call: those asked for, else the cores that this process may run on."""
    if threads is not None:
        return threads
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Linux alone tells them.
        return os.cpu_count() or 1


def plain_name(name: str) -> str:
    """A name as the manifest writes it: at most 200 printable characters of ASCII, and never empty."""
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in name.strip())
    return plain[:_LONGEST] or "unknown"
