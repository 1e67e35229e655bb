"""Counter-based random numbers: a hash of (seed, epoch, image, view, slot), and no state.

32-bit integer mixing in int64 arithmetic, masked: torch has no unsigned multiplication on every device, and the low 32
bits of a wrapped int64 product are those of the unsigned one. The same bits on CPU and CUDA, and under a CUDA graph,
where ``epoch`` and ``index`` are tensors that change between replays.
"""

from typing import TypeVar

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: spreads small neighbouring keys.

Bits = TypeVar("Bits", int, Tensor)


def uniform(
    seed: int, epoch: int | Int64[Tensor, ""], index: Int64[Tensor, "B"], view: int, slots: int
) -> Float32[Tensor, "B slots"]:
    """Uniform numbers in [0, 1), multiples of 2^-24: ``slots`` for each image of ``index``.

    Two lanes of 32 bits are chained over the keys, so that two images of a run seldom share their numbers.
    """
    lane_1, lane_2 = torch.zeros_like(index), torch.full_like(index, 0x5BD1E995)
    for key in (seed, epoch, index, view):
        lane_1, lane_2 = _mix(lane_1 + key), _mix((lane_2 ^ key) + lane_1)
    slot = torch.arange(slots, device=index.device)
    bits = _mix(_mix(lane_1[:, None] + slot * _GOLDEN) ^ lane_2[:, None])
    return (bits >> 8).float() * 2.0**-24


def seed_of(seed: int, epoch: int, index: int, view: int) -> int:
    """One 32-bit integer of the same keys, in plain Python, for generators that want a seed."""
    lane_1, lane_2 = 0, 0x5BD1E995
    for key in (seed, epoch, index, view):
        lane_1, lane_2 = _mix(lane_1 + key), _mix((lane_2 ^ key) + lane_1)
    return _mix(lane_1 ^ lane_2)


def _mix(bits: Bits) -> Bits:
    """Finaliser of MurmurHash3 (Appleby 2011, public domain): every input bit flips each output bit half the time."""
    bits = (bits + _GOLDEN) & _MASK
    bits = ((bits ^ (bits >> 16)) * 0x85EBCA6B) & _MASK
    bits = ((bits ^ (bits >> 13)) * 0xC2B2AE35) & _MASK
    return bits ^ (bits >> 16)
