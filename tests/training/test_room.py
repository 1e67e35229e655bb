"""What a process may come to: the machine's free memory, control groups of both versions, and the address space."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from byolt.training import room
from byolt.training.allocator import kept_bytes
from byolt.training.room import forget_peak, peak_bytes, room_bytes

CPU = torch.device("cpu")
MIB = 2**20


def machine(root: Path, *, free_mib: int, groups: str = "", files: dict[str, str] | None = None) -> Path:
    """A tree of what Linux tells: this process has 100 MiB resident."""
    tree = {
        "proc/self/status": "Name:\tbyolt\nVmSize:\t 400000 kB\nVmHWM:\t 204800 kB\nVmRSS:\t 102400 kB\n",
        "proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable: {free_mib * 1024} kB\n",
        "proc/self/cgroup": groups,
    } | (files or {})
    for name, text in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_free_memory_comes_on_top_of_what_is_resident(tmp_path: Path) -> None:
    assert room_bytes(CPU, machine(tmp_path, free_mib=900)) == 1000 * MIB


def test_the_narrowest_group_of_version_2_decides_and_droppable_pages_count_as_free(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": f"{300 * MIB}\n",
        "sys/fs/cgroup/a/memory.max": f"{500 * MIB}\n",
        "sys/fs/cgroup/a/memory.current": f"{300 * MIB}\n",
        "sys/fs/cgroup/a/memory.stat": f"anon {200 * MIB}\ninactive_file {50 * MIB}\n",
    }
    # 100 resident + (500 - 300 + 50) left in group a.
    assert room_bytes(CPU, machine(tmp_path, free_mib=900, groups="0::/a/b\n", files=files)) == 350 * MIB


def test_a_group_of_version_1_decides_though_its_path_is_that_outside_of_the_container(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{400 * MIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{150 * MIB}\n",
        "sys/fs/cgroup/memory/memory.stat": f"cache 1\ntotal_inactive_file {20 * MIB}\n",
    }
    groups = "5:cpu,cpuacct:/x\n4:memory:/docker/0123\n0::/\n"
    assert room_bytes(CPU, machine(tmp_path, free_mib=900, groups=groups, files=files)) == 370 * MIB


def test_a_group_that_is_over_its_limit_leaves_what_is_resident(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory.max": f"{100 * MIB}\n",
        "sys/fs/cgroup/memory.current": f"{150 * MIB}\n",
    }
    assert room_bytes(CPU, machine(tmp_path, free_mib=900, groups="0::/\n", files=files)) == 100 * MIB


def test_the_limit_on_the_address_space_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (400000 * 1024 + 7 * MIB, resource.RLIM_INFINITY))
    monkeypatch.setattr(room, "kept_bytes", lambda: 3 * MIB)  # Freed, and so there for the next allocation.
    assert room_bytes(CPU, machine(tmp_path, free_mib=900)) == 110 * MIB


def test_what_is_freed_is_kept_and_known() -> None:
    before = kept_bytes()
    held = torch.empty(2**20 // 64)  # Below the threshold above which glibc maps a block of its own.
    blocks = [torch.empty(2**20 // 64) for _ in range(256)]
    last = torch.empty(2**20 // 64)
    taken = kept_bytes()
    blocks.clear()
    assert kept_bytes() - min(before, taken) > 14 * MIB
    assert held.nbytes == last.nbytes == MIB // 16


def test_the_peak_begins_anew_and_sees_what_is_touched() -> None:
    program = """if True:
        import torch
        from byolt.training.room import forget_peak, peak_bytes, room_bytes
        cpu = torch.device("cpu")
        torch.ones(2**26)  # 256 MiB, given back at once.
        high = peak_bytes(cpu)
        assert forget_peak(cpu)
        low = peak_bytes(cpu)
        held = torch.ones(2**25)
        print(high - low, peak_bytes(cpu) - low, room_bytes(cpu) > peak_bytes(cpu))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    forgotten, touched, more = done.stdout.split()
    assert 200 * MIB < int(forgotten) < 300 * MIB
    assert 126 * MIB < int(touched) < 140 * MIB
    assert more == "True"


@pytest.mark.gpu
def test_a_gpus_peak_is_what_is_allocated() -> None:
    device = torch.device("cuda")
    assert forget_peak(device)
    before = peak_bytes(device)
    held = torch.ones(2**25, device=device)
    assert peak_bytes(device) - before == held.nbytes
    assert room_bytes(device) > peak_bytes(device)
