"""The cores that this process may use: its affinity, within the quota of its control group. Imports no torch."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may keep busy: those it may run on, or what a container's quota comes to, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cores()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def quota_cores(groups: Path = _GROUPS, own: str | None = None) -> float | None:
    """The least quota, in cores, of the control group ``own`` and those around it; None where there is none.

    Args:
        groups: Where control groups are mounted, of version 2 (``cpu.max``) or 1 (``cpu/cpu.cfs_quota_us``).
        own: Path of the process's group below that; left out, as ``/proc/self/cgroup`` has it.
    """
    own = _own_group() if own is None else own
    found: list[float] = []
    for mounted in (groups, groups / "cpu"):
        place = mounted / own.strip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(mounted):
                found += _quotas(folder)
    return min(found, default=None)


def _quotas(folder: Path) -> Iterator[float]:
    try:
        quota, period = (folder / "cpu.max").read_text().split()  # "max 100000" is no limit.
        yield int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
        quota_us, period_us = (int((folder / name).read_text()) for name in names)
        if quota_us > 0:  # -1 is no limit.
            yield quota_us / period_us
    except (OSError, ValueError, ZeroDivisionError):
        pass


def _own_group() -> str:
    """``0::/path`` of version 2, ``4:cpu,cpuacct:/path`` of version 1; the root where nothing is known."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    groups = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    return next((path for names, path in groups.items() if "cpu" in names.split(",")), groups.get("", ""))
