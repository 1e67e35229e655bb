"""The device that a recipe runs on, and the precision that it computes in there."""

import torch

from byolt_export.errors import InputError


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
