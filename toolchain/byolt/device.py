"""The device that a recipe runs on, the precision that it computes in there, and its memory."""

from pathlib import Path
from typing import Literal

import torch

from byolt_export.errors import InputError

Precision = Literal["fp32", "bf16"]
"""Arithmetic of forward and backward; weights, statistics, losses and the target's update are fp32 in both."""
NO_BF16_UNITS = "this processor has no units for bf16 (AVX-512 BF16 or AMX) and would emulate them, far slower"
_BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86's names, and Arm's.


def pick_device(name: str) -> torch.device:
    """The device of ``machine.device``; ``auto`` is a GPU where there is one.

    Raises:
        InputError: A GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("machine.device: no CUDA device here; use device: auto, and see `byolt doctor`")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def computes_in_bf16(precision: str, device: torch.device) -> bool:
    """Whether forward and backward are in bf16 by ``machine.precision``; ``auto`` is bf16 on a GPU that has it."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"


def precision_for(precision: str, device: str) -> Precision:
    """What a recipe's learning computes in here, by its ``machine.precision`` and ``machine.device``.

    Raises:
        InputError: A GPU is asked for and there is none.
    """
    return "bf16" if computes_in_bf16(precision, pick_device(device)) else "fp32"


def has_bf16_units(device: torch.device) -> bool:
    """Whether the device multiplies in bf16 itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not _BF16_UNITS.isdisjoint(flags.split())


def peak_bytes(device: torch.device) -> int:
    """The most that was in use since the peak began anew."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return kib_of("/proc/self/status", "VmHWM") * 1024


def kib_of(file: str, name: str) -> int:
    """A number of kB, which are KiB, from a file of ``Name:  number kB``; 0 where the system has no such file."""
    lines = Path(file).read_text().splitlines() if Path(file).exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
