"""What this process has in use at most, and what it may come to: of a GPU's memory, or of the machine's on a CPU.

Linux tells the largest resident size of a process and lets the process begin it anew (proc(5), ``clear_refs``). What
it may come to is bounded by the machine's free memory, by each control group above the process, in both versions of
control groups, and by the limit on its address space.
"""

import resource
from collections.abc import Iterator
from pathlib import Path

import torch

from byolt.training.allocator import kept_bytes

_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs
_ROOT = Path("/")


def forget_peak(device: torch.device) -> bool:
    """Begin the peak anew at what is in use now; False where the system does not allow it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def peak_bytes(device: torch.device) -> int:
    """Most that was in use since ``forget_peak``: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _kib(_ROOT / "proc/self/status", "VmHWM") * 1024


def room_bytes(device: torch.device, root: Path = _ROOT) -> int:
    """What the peak may come to: in use by this process now, and what is free besides.

    Args:
        device: A GPU's own memory counts, or the machine's for the CPU.
        root: Where ``proc`` and ``sys`` lie.
    """
    if device.type == "cuda":
        # What torch has reserved is not free to the driver, but is to torch.
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    status = root / "proc/self/status"
    free = [_kib(root / "proc/meminfo", "MemAvailable") * 1024, *_free_in_groups(root)]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free.append(limit - _kib(status, "VmSize") * 1024 + kept_bytes())
    return _kib(status, "VmRSS") * 1024 + max(0, min(free))


def _free_in_groups(root: Path) -> Iterator[int]:
    """What each control group above this process has left; pages of files that can be dropped count as left."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            mount, limit, usage, cached = "memory", "limit_in_bytes", "usage_in_bytes", "total_inactive_file"
        elif not controllers:
            mount, limit, usage, cached = "", "max", "current", "inactive_file"
        else:
            continue
        top = root / "sys/fs/cgroup" / mount
        group = top / path.lstrip("/")
        # In a container the path may be that outside of it: what is not there is passed over.
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
            words = [*_lines(folder / f"memory.{limit}"), *_lines(folder / f"memory.{usage}")]
            if len(words) == 2 and words[0] != "max":
                stat = dict(line.split() for line in _lines(folder / "memory.stat"))
                yield int(words[0]) - int(words[1]) + int(stat.get(cached, 0))


def _kib(file: Path, name: str) -> int:
    """A number of kB, which are KiB, from a file of ``Name:  number kB``."""
    return next(int(line.split()[1]) for line in _lines(file) if line.startswith(f"{name}:"))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
