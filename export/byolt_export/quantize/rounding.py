"""Real numbers to int8 with the least error in what a layer gives; numpy alone.

Axes: N rows, C channels of a tensor, G groups of a convolution, O outputs of a group, K inputs of one output (C / G
channels by T taps of the window, the channel first).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]

_RANGE_CLIPS = np.linspace(0.3, 1.0, 15)  # Shares of a tensor's range that are tried.
_KERNEL_CLIPS = np.linspace(1.0, 0.7, 13)
_KERNEL_ERROR_SHARE = 0.25  # What of a kernel's rounding error reaches the output, for `round_kernel` cancels the rest.
_LEAST_SHIFT = 32  # ActivationScaling; below it, a shift gains less than a fifth of a bit.
_DAMPING = 0.01
_BLOCK = 64


@dataclass(frozen=True)
class ActivationScaling:
    """How a tensor becomes int8: ``q = round((x - shift) / scale)``, held within -128 to 127.

    ``shift`` is a whole number of scales: to an engine with zero points it is one, and for TensorRT, which has none, it
    is taken off before the rounding. A tensor without negative values uses all 256 levels, and its zeros, half of what
    comes out of a ReLU, stay exact.
    """

    scale: float
    shift: float

    def restored(self, rows: Rows) -> Rows:
        """What rows (N, C) are after int8 and back."""
        scale, shift = np.float32(self.scale), np.float32(self.shift)
        return np.clip(np.round((rows - shift) / scale), -128, 127) * scale + shift

    @property
    def zero_point(self) -> int:
        """The level of uint8, 0 to 255, that stands for 0."""
        return 128 - round(self.shift / self.scale)

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that int8 can say."""
        return self.scale * -128 + self.shift, self.scale * 127 + self.shift

    def is_within(self, least: float, most: float) -> bool:
        """Whether int8 says no value beyond these, so that what cuts there need not be computed before it."""
        low, high = self.bounds
        return low >= least - 1e-6 * (high - low) and high <= most * (1 + 1e-3)


def storable(values: npt.ArrayLike, dtype: npt.DTypeLike) -> Reals:
    """Scales as the file will hold them: rounded to its type first, for the rounding to int8 must use the same."""
    kind = np.dtype(dtype).type
    info = np.finfo(kind)
    smallest = info.smallest_subnormal if kind is np.float16 else info.tiny
    return np.asarray(np.clip(np.asarray(values, np.float64), smallest, info.max), kind).astype(np.float64)


def exact_levels() -> ActivationScaling:
    """Of a tensor of whole numbers from -128 to 127."""
    return ActivationScaling(1.0, 0.0)


def widest_levels(low: Rows, high: Rows, dtype: npt.DTypeLike) -> ActivationScaling:
    """Min-max: the largest absolute value (of the bounds of each channel, (C,)) is 127."""
    return ActivationScaling(float(storable(max(-low.min(), high.max()) / 127, dtype)), 0.0)


def best_levels(
    rows: Rows,
    low: Rows,
    high: Rows,
    kernels: Sequence[Reals],
    dtype: npt.DTypeLike,
    *,
    may_shift: bool,
    weights: Reals | float = 1.0,
) -> tuple[ActivationScaling, float]:
    """The levels of a tensor that cost its layers the least squared error, and that error.

    Rounding errors of different inputs are independent, so a layer's error is the tensor's error in each channel,
    weighted by the squares of the kernels that it meets, plus the kernels' own.

    Args:
        rows: Values of the tensor, (N, C).
        low: Least value of each channel among all calibration images, (C,).
        high: Largest value of each channel, (C,).
        kernels: Of each layer that reads the tensor, (G, O, K).
        dtype: Of the graph, which the scale is stored in.
        may_shift: Whether the layers can add what a shift takes away.
        weights: Of the channels' squared errors, (C,) or one for all, where no kernel reads the tensor.
    """
    energy = np.sum([_energy(k, low.size) for k in kernels], axis=0) if kernels else np.ones(low.size) * weights
    kernel_error = _KERNEL_ERROR_SHARE * sum(_kernel_error(k, rows) for k in kernels)
    bottom, top = min(float(low.min()), 0.0), max(float(high.max()), 0.0)
    least, chosen = np.inf, widest_levels(low, high, dtype)
    for clip in _RANGE_CLIPS:
        levels = ActivationScaling(*_scale(bottom * clip, top * clip, dtype, may_shift))
        error = ((levels.restored(rows) - rows) ** 2).mean(axis=0) @ energy
        if error < least:
            least, chosen = error, levels
    return chosen, float(least + kernel_error)


def _scale(bottom: float, top: float, dtype: npt.DTypeLike, may_shift: bool) -> tuple[float, float]:
    """Scale and shift of a range with 0 in it; the shift is a whole number of levels, so that 0 stays exact."""
    scale = float(storable((top - bottom) / 255, dtype))
    levels = round(128 + bottom / scale)
    if not may_shift or abs(levels) < _LEAST_SHIFT:
        return float(storable(max(-bottom, top) / 127, dtype)), 0.0
    with np.errstate(over="ignore"):
        stored = float(np.float64(levels * scale).astype(dtype))
    return scale, stored if np.isfinite(stored) else levels * scale  # An fp32 file holds what fp16 does not.


def _by_channel(kernel: Reals, channels: int) -> Reals:
    groups, outputs, _ = kernel.shape
    return kernel.reshape(groups, outputs, channels // groups, -1)


def _energy(kernel: Reals, channels: int) -> Reals:
    """Squares of the kernel that each channel (C,) meets."""
    energy: Reals = (_by_channel(kernel, channels) ** 2).sum(axis=(1, 3)).ravel()
    return energy


def _kernel_error(kernel: Reals, rows: Rows) -> float:
    """Squared error that plain rounding of the kernel to int8, one scale per output channel, would cost."""
    parts = _by_channel(kernel, rows.shape[1])
    groups, _, channels, taps = parts.shape
    steps = np.abs(parts).max(axis=(2, 3)) / 127
    power = (rows.astype(np.float64) ** 2).mean(axis=0).reshape(groups, channels).sum(axis=1) * taps
    return float(((steps**2 / 12).sum(axis=1) * power).sum())


def widest_kernel_scales(kernel: Reals, dtype: npt.DTypeLike) -> Reals:
    """Min-max scales (G, O) of a kernel (G, O, K)."""
    return storable(np.abs(kernel).max(axis=-1) / 127, dtype)


def kernel_scales(kernel: Reals, moments: Reals, dtype: npt.DTypeLike) -> Reals:
    """Scales (G, O) of a kernel (G, O, K) of least error, each weight's weighted by its input's mean square (G, K)."""
    widest = np.abs(kernel).max(axis=-1)
    best, least = storable(widest / 127, dtype), np.full(widest.shape, np.inf)
    for clip in _KERNEL_CLIPS:
        scales = storable(widest * clip / 127, dtype)
        error = ((nearest(kernel, scales) * scales[..., None] - kernel) ** 2 * moments[:, None]).sum(axis=-1)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best


def nearest(kernel: Reals, scales: Reals) -> Reals:
    """Whole numbers -127 to 127 nearest to a kernel (G, O, K) over its scales (G, O)."""
    return np.clip(np.round(kernel / scales[..., None]), -127, 127)


def round_kernel(kernel: Reals, scales: Reals, gram: Reals) -> Reals:
    """Whole numbers (G, O, K) for a kernel such that the layer's outputs, not the weights, move least.

    GPTQ (Frantar et al. 2022, arXiv:2210.17323): weights are rounded one after another, those of the strongest inputs
    first, and each rounding error is taken up by the weights that are still to come, as far as their inputs go along.

    Args:
        kernel: (G, O, K).
        scales: (G, O).
        gram: Second moments of the inputs, (G, K, K).
    """
    return np.stack([_round_group(*group) for group in zip(kernel, scales, gram, strict=True)])


def _round_group(kernel: Reals, scales: Reals, gram: Reals) -> Reals:
    strength = np.diag(gram)
    order = np.argsort(-strength, kind="stable")
    damped = gram[np.ix_(order, order)] + (_DAMPING * strength.mean() or 1.0) * np.eye(len(gram))
    # With gram = M M^T and M upper triangular, an error e costs |M^T e|^2: its k-th term is that of e_k and of the
    # errors before it alone, and is least when weight k takes up what `follow` says. GPTQ's steps, without its inverse.
    upper = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    follow = upper / np.diag(upper)
    wanted, errors, rounded = kernel[:, order], np.zeros_like(kernel), np.empty_like(kernel)
    for start in range(0, len(gram), _BLOCK):  # What comes before a block reaches it by one product of matrices.
        end = min(start + _BLOCK, len(gram))
        wanted[:, start:end] += errors[:, :start] @ follow[:start, start:end]
        for k in range(start, end):
            target = wanted[:, k] + errors[:, start:k] @ follow[start:k, k]
            rounded[:, k] = np.clip(np.round(target / scales), -127, 127)
            errors[:, k] = kernel[:, order[k]] - rounded[:, k] * scales
    result = np.empty_like(kernel)
    result[:, order] = rounded
    return result
