"""Real numbers to int8, by hand."""

import numpy as np
import numpy.typing as npt
import pytest

from byolt_export.quantize.rounding import (
    ActivationScaling,
    best_levels,
    exact_levels,
    kernel_scales,
    nearest,
    round_kernel,
    storable,
    widest_kernel_scales,
    widest_levels,
)


def test_levels_without_negative_values_use_all_of_int8_and_keep_zero() -> None:
    # x 0..2 in steps of 1/128, shift 1: 0 -> -128, 1 -> 0, 255/128 -> 127, and 2 is held at 255/128.
    levels = ActivationScaling(1 / 128, 1.0)
    rows = np.array([[0], [1], [255 / 128], [2], [1 / 512]], np.float32)
    assert levels.restored(rows).ravel().tolist() == [0, 1, 255 / 128, 255 / 128, 0]
    assert (levels.zero_point, levels.bounds) == (0, (0.0, 255 / 128))
    assert ActivationScaling(0.5, -32.0).zero_point == 192  # -32 is the middle: 0 lies 64 levels above it.


def test_whole_numbers_are_exact() -> None:
    pixels = np.arange(-128, 128, dtype=np.float32)[:, None]
    assert (exact_levels().restored(pixels) == pixels).all()


def test_min_max_levels_and_kernel_scales() -> None:
    low, high = np.array([-254, 0], np.float32), np.array([1, 127], np.float32)
    assert widest_levels(low, high, "float16").scale == 2.0  # 254 / 127
    kernel = np.array([[[63.5, -127.0], [0.0, 1.27]]])
    assert widest_kernel_scales(kernel, "float32") == pytest.approx(np.array([[1.0, 0.01]]))
    assert nearest(np.array([[[63.5, -127.0], [0.4, 300.0]]]), np.array([[1.0, 1.0]])).tolist() == [
        [[64, -127], [0, 127]]
    ]


def test_scales_are_rounded_to_what_the_file_holds() -> None:
    # fp16 has steps of 2^-11 between 1 and 2 x 2^-1..., and none below 2^-24.
    assert storable([0.1, 1 + 2**-12, 0.0], "float16").tolist() == [float(np.float16(0.1)), 1.0, 2**-24]


def test_best_levels_shift_a_relu_and_clip_its_tail() -> None:
    rng = np.random.default_rng(0)
    rows = np.maximum(rng.normal(size=(65536, 4)), 0).astype(np.float32)
    rows[0] = 8  # An outlier that min-max spends the levels on.
    bounds = rows.min(axis=0), rows.max(axis=0)
    kernels = [rng.normal(size=(1, 8, 4))]
    plain = widest_levels(*bounds, "float16")
    shifted, least = best_levels(rows, *bounds, kernels, "float16", may_shift=True)
    symmetric, _ = best_levels(rows, *bounds, kernels, "float16", may_shift=False)
    assert shifted.shift == 128 * shifted.scale  # So that zero stays exact, on the lowest level.
    assert symmetric.shift == 0
    squared = [float(((x.restored(rows) - rows) ** 2).mean()) for x in (shifted, symmetric, plain)]
    assert squared[0] < squared[1] < squared[2]
    _, without_kernels = best_levels(rows, *bounds, [], "float16", may_shift=True)
    assert without_kernels == pytest.approx(4 * squared[0], rel=0.05)  # Four channels, all of the same weight.
    assert least > 0


def test_kernel_scales_ignore_a_weight_that_meets_nothing() -> None:
    kernel = np.array([[[1.0, 0.3, 0.31]]])
    loud, silent = (kernel_scales(kernel, np.array([[m, 1.0, 1.0]]), "float32") for m in (1.0, 0.0))
    assert loud == pytest.approx(1 / 127, rel=0.01)
    assert silent < loud


def test_rounding_of_two_weights_by_hand() -> None:
    # Inputs that always go together (gram of ones, and 1 % damping): 0.4 rounds to 0, and the second weight takes up
    # 0.4 / 1.01 of it: 0.4 + 0.396 = 0.796 rounds to 1. Outputs are off by 0.8 - 1, not by 0.8.
    whole = round_kernel(np.array([[[0.4, 0.4]]]), np.ones((1, 1)), np.ones((1, 2, 2)))
    assert whole.tolist() == [[[0, 1]]]
    # Inputs that have nothing to do with one another: to the nearest.
    assert round_kernel(np.array([[[0.4, 0.4]]]), np.ones((1, 1)), np.eye(2)[None]).tolist() == [[[0, 0]]]


def test_rounding_by_moments_beats_plain_rounding_on_outputs() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2, 4000, 20)) @ rng.normal(size=(2, 20, 100)) + 0.3 * rng.normal(size=(2, 4000, 100))
    kernel = rng.normal(size=(2, 6, 100))
    gram = inputs.transpose(0, 2, 1) @ inputs / 4000
    scales = widest_kernel_scales(kernel, "float16")

    def squared(whole: npt.NDArray[np.float64]) -> float:
        return float(((inputs @ (whole * scales[..., None] - kernel).transpose(0, 2, 1)) ** 2).mean())

    # More than 64 inputs: across blocks too. Measured: a tenth.
    assert squared(round_kernel(kernel, scales, gram)) < 0.3 * squared(nearest(kernel, scales))


def test_rounding_survives_inputs_that_are_always_zero() -> None:
    kernel = np.array([[[1.3, -0.2]]])
    assert round_kernel(kernel, np.ones((1, 1)), np.zeros((1, 2, 2))).tolist() == [[[1, 0]]]
