"""Make glibc's allocator keep what is freed, for learning on a CPU.

Each step frees and takes the same large blocks. By default glibc maps blocks above its threshold (at most 32 MB on a
64-bit system) anew each time and gives freed memory at the top of the heap back to the system, so that the next step
meets a fault on each page again. Kept instead, a step takes about 15 % less time (docs/results.md, "glibc keeps freed
memory"), and the process holds on to the most that it ever used.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Set it for this process; False where the C library is not glibc, and nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20}
    return all(mallopt(name, value) == 1 for name, value in settings.items())


def give_back_freed_memory() -> None:
    """Give freed memory back to the system once, whatever is set above: so that a peak can be measured."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
