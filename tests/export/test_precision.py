import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from byolt_export.calibrate import feed, giving, observe, run
from byolt_export.errors import InputError
from byolt_export.layers import find_layers
from byolt_export.measures import relative_l2
from byolt_export.precision import quantise
from byolt_export.rounding import (
    Levels,
    best_levels,
    kernel_scales,
    nearest,
    round_kernel,
    storable,
    widest_kernel_scales,
    widest_levels,
)
from byolt_export.runtime import OnnxRunner

SIDE = 16
CHANNELS = (3, 8, 16, 12)


def images(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Coloured blots of 4 px; one image in eight has ten times the contrast of the rest."""
    rng = np.random.default_rng(seed)
    contrast = np.where(np.arange(count) % 8 == 7, 120, 12)[:, None, None, None]
    blots = rng.normal(size=(count, SIDE // 4, SIDE // 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(128 + contrast * (blots + 0.3 * rng.normal(size=(count, SIDE, SIDE, 3))), 0, 255).astype(np.uint8)


def small_model(path: Path, *, relu: bool = True, scale: float = 1 / 64, dtype: str = "float16") -> Path:
    """Raw images -> three convolutions, the middle one grouped -> mean over the image -> a product of matrices."""
    rng = np.random.default_rng(1)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    constants = [numpy_helper.from_array(np.array([[[[128.0]]]], np.float32), "grey")]
    constants += [numpy_helper.from_array(np.array(scale, np.float32), "scale")]
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "grey"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["x0"], to=kind),
    ]
    for k, (into, out) in enumerate(itertools.pairwise(CHANNELS)):
        groups = 4 if k == 1 else 1
        # Channels of very different ranges, as BatchNorm leaves them.
        kernel = rng.normal(size=(out, into // groups, 3, 3)) * np.exp(rng.normal(size=(out, 1, 1, 1)))
        kernel *= np.sqrt(2 / (9 * into // groups))
        constants.append(numpy_helper.from_array(kernel.astype(dtype), f"w{k}"))
        constants.append(numpy_helper.from_array((0.3 * rng.normal(size=out)).astype(dtype), f"b{k}"))
        last = f"c{k}" if relu else f"x{k + 1}"
        how: dict[str, Any] = {"pads": [1, 1, 1, 1], "strides": [1 + k % 2] * 2, "group": groups}
        nodes.append(helper.make_node("Conv", [f"x{k}", f"w{k}", f"b{k}"], [last], **how))
        if relu:
            nodes.append(helper.make_node("Relu", [last], [f"x{k + 1}"]))
    constants.append(numpy_helper.from_array(rng.normal(size=(CHANNELS[-1], 10)).astype(dtype), "w"))
    constants.append(numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
    nodes += [
        helper.make_node("ReduceMean", [f"x{len(CHANNELS) - 1}", "axes"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "w"], ["product"]),
        helper.make_node("Cast", ["product"], ["embedding"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 10])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def fp16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("int8") / "encoder.fp16.onnx")


def error(reference: Path, candidate: Path) -> float:
    held_out = images(200, seed=9)
    return float(relative_l2(OnnxRunner(reference)(held_out), OnnxRunner(candidate)(held_out)).mean())


def test_levels_without_negative_values_use_all_of_int8_and_keep_zero() -> None:
    # x 0..2 in steps of 1/128, shift 1: 0 -> -128, 1 -> 0, 255/128 -> 127, and 2 is held at 255/128.
    levels = Levels(np.ones(1, np.float32), 1 / 128, 1.0)
    rows = np.array([[0], [1], [255 / 128], [2], [1 / 512]], np.float32)
    assert levels.restored(rows).ravel().tolist() == [0, 1, 255 / 128, 255 / 128, 0]


def test_a_gain_is_applied_before_the_rounding() -> None:
    levels = Levels(np.array([1, 4], np.float32), 0.5, 0.0)
    # 0.6 -> 1.2 steps -> 0.5; 4 x 0.6 = 2.4 -> 4.8 steps -> 2.5.
    assert levels.restored(np.array([[0.6, 0.6]], np.float32)).tolist() == [[0.5, 2.5]]


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
    shifted = best_levels(rows, *bounds, kernels, "float16", may_shift=True)
    symmetric = best_levels(rows, *bounds, kernels, "float16", may_shift=False)
    assert shifted.shift == 128 * shifted.scale  # So that zero stays exact, on the lowest level.
    assert symmetric.shift == 0
    squared = [float(((x.restored(rows) / x.gain - rows) ** 2).mean()) for x in (shifted, symmetric, plain)]
    assert squared[0] < squared[1] < squared[2]


def test_a_gain_evens_channels_of_different_range() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(2048, 2)) * [1, 0.01]).astype(np.float32)
    bounds = rows.min(axis=0), rows.max(axis=0)
    kernel = np.array([[[1.0, 100.0]]])  # Both channels matter as much.
    levels = best_levels(rows, *bounds, [kernel], "float16", may_shift=True)
    assert levels.gain[1] / levels.gain[0] > 10


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


def test_multiply_adds_by_hand(fp16: Path) -> None:
    layers, total = find_layers(onnx.load(fp16))
    # 16 x 16 x 8 outputs of 3 x 9; stride 2: 8 x 8 x 16 of (8 / 4) x 9; 8 x 8 x 12 of 16 x 9; 12 x 10.
    expected = [16 * 16 * 8 * 27, 8 * 8 * 16 * 18, 8 * 8 * 12 * 144, 120]
    assert [layer.macs for layer in layers] == expected
    assert total == sum(expected)


def test_windows_times_matrices_are_the_convolution(fp16: Path, tmp_path: Path) -> None:
    layers, _ = find_layers(onnx.load(fp16))
    x = np.random.default_rng(0).normal(size=(2, 8, 16, 16)).astype(np.float32)
    layer = layers[1]  # Grouped, stride 2, padded.
    kernel = layer.kernel.astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **layer.attributes)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph([node], "conv", info[:1], info[1:], [numpy_helper.from_array(kernel, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    got = layer.windows(x, 10**6) @ layer.as_matrices().transpose(0, 2, 1)  # (G, 2 x 8 x 8, O)
    got = got.transpose(1, 0, 2).reshape(2, 8, 8, 16).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_bounds_and_moments_are_those_of_all_images(tmp_path: Path) -> None:
    model = onnx.load(small_model(tmp_path / "fp32.onnx", dtype="float32"))
    layers, _ = find_layers(model)
    shown = images(40)  # Three batches, the contrasty images in all of them.
    shown[3] = 255  # The brightest pixels are in the first batch.
    tensors, moments = observe(model, layers, shown)
    pixels = (shown.astype(np.float32) - 128) / 64
    assert tensors["x0"].low == pytest.approx(pixels.min(axis=(0, 1, 2)))
    assert tensors["x0"].high == pytest.approx(pixels.max(axis=(0, 1, 2)))
    head = layers[-1]
    pooled = np.concatenate([v["pooled"] for v in run(giving(model, ["pooled"]), feed(model, shown))]).astype(float)
    gain = np.linspace(0.5, 2, 12)[None]
    mean, covariance = moments[head.name].times(gain)
    assert mean == pytest.approx(pooled.mean(axis=0, keepdims=True) * gain, rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(covariance[0], np.cov(pooled.T * gain.T, bias=True), rtol=1e-4, atol=1e-6)


def test_int8_file_stores_int8_and_zero_points_of_zero(fp16: Path, tmp_path: Path) -> None:
    before = fp16.read_bytes()
    calibration = quantise(fp16, tmp_path / "int8.onnx", images=images(64), source="drawn", least_share=1.0)
    assert fp16.read_bytes() == before
    model = onnx.load(tmp_path / "int8.onnx")
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    quantised = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(quantised) == 4 * 3  # Q and DQ of four inputs, DQ of four kernels.
    assert all(constants[n.input[2]].dtype == np.int8 and not constants[n.input[2]].any() for n in quantised)
    assert all(constants[n.input[1]].dtype == np.float16 for n in quantised)
    kernels = [constants[n.input[0]] for n in quantised if n.input[0] in constants]
    assert [k.shape for k in kernels] == [(8, 3, 3, 3), (16, 2, 3, 3), (12, 16, 3, 3), (12, 10)]
    assert all(k.dtype == np.int8 and np.abs(k).max() > 100 for k in kernels)
    assert not {"w0", "w1", "w2", "w"} & set(constants)  # The fp16 kernels are gone.
    assert model.opset_import[0].version == 19
    assert (calibration.images, calibration.int8_share, calibration.fp16_layers) == (64, 1.0, ())


@pytest.mark.parametrize("relu", [True, False])
def test_outputs_stay_near_those_of_fp16(relu: bool, tmp_path: Path) -> None:
    # Padding, groups, strides, shift and gain: one of them done wrong moves outputs by more than 10 %.
    model = small_model(tmp_path / "fp16.onnx", relu=relu)
    quantise(model, tmp_path / "int8.onnx", images=images(128), source="drawn", least_share=1.0)
    assert (
        any(n.op_type == "Sub" and "shift" in n.input[1] for n in onnx.load(tmp_path / "int8.onnx").graph.node) == relu
    )
    assert error(model, tmp_path / "int8.onnx") < 0.02


def test_least_error_beats_min_max(fp16: Path, tmp_path: Path) -> None:
    for rule in ("least error", "min-max"):
        quantise(fp16, tmp_path / f"{rule}.onnx", images=images(128), source="drawn", rule=rule, least_share=1.0)
    assert error(fp16, tmp_path / "least error.onnx") < 0.6 * error(fp16, tmp_path / "min-max.onnx")


def test_calibration_on_ten_images_shows(fp16: Path, tmp_path: Path) -> None:
    few = images(10)[np.arange(7).repeat(5)]  # None of the contrasty ones, again and again.
    quantise(fp16, tmp_path / "few.onnx", images=few, source="drawn", rule="min-max")
    quantise(fp16, tmp_path / "many.onnx", images=images(128), source="drawn")
    assert error(fp16, tmp_path / "few.onnx") > 5 * error(fp16, tmp_path / "many.onnx")


def test_the_most_harmful_layers_stay_fp16_within_the_share(fp16: Path, tmp_path: Path) -> None:
    layers, total = find_layers(onnx.load(fp16))
    half = quantise(fp16, tmp_path / "half.onnx", images=images(64), source="drawn", least_share=0.5)
    assert half.fp16_layers
    assert half.int8_share >= 0.5
    assert half.int8_share == sum(x.macs for x in layers if x.name not in half.fp16_layers) / total
    quantise(fp16, tmp_path / "all.onnx", images=images(64), source="drawn", least_share=1.0)
    assert error(fp16, tmp_path / "half.onnx") < error(fp16, tmp_path / "all.onnx")


def test_same_bytes_twice(fp16: Path, tmp_path: Path) -> None:
    first, second = (
        quantise(fp16, tmp_path / name, images=images(40), source="drawn") for name in ("1.onnx", "2.onnx")
    )
    assert first == second
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()
    other = quantise(fp16, tmp_path / "3.onnx", images=images(40, seed=1), source="drawn")
    assert other.sha256 != first.sha256


def test_a_float32_graph_can_be_quantised_too(tmp_path: Path) -> None:
    model = small_model(tmp_path / "fp32.onnx", dtype="float32")
    quantise(model, tmp_path / "int8.onnx", images=images(64), source="drawn", least_share=1.0)
    assert error(model, tmp_path / "int8.onnx") < 0.02


def test_too_few_images_are_refused(fp16: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^31 images are too few to calibrate INT8: give at least 32$"):
        quantise(fp16, tmp_path / "int8.onnx", images=images(31), source="drawn")
    assert not (tmp_path / "int8.onnx").exists()


def test_activations_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = small_model(tmp_path / "fp16.onnx", scale=3e3)  # fp16 ends at 65,504.
    with pytest.raises(InputError, match="`x[0-9]` is not finite on the calibration images"):
        quantise(model, tmp_path / "int8.onnx", images=images(32), source="drawn")


def test_a_graph_without_a_layer_to_quantise_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["embedding"], to=TensorProto.FLOAT)],
        "nothing",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", SIDE, SIDE, 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "nothing.onnx")
    with pytest.raises(InputError, match="has no layer with a constant kernel that INT8 fits"):
        quantise(tmp_path / "nothing.onnx", tmp_path / "int8.onnx", images=images(32), source="drawn")


def test_tensorrt_for_rtx_builds_the_file(fp16: Path, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    quantise(fp16, tmp_path / "int8.onnx", images=images(32), source="drawn", least_share=1.0)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse((tmp_path / "int8.onnx").read_bytes()), parser.get_error(0).desc()
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("images", *[(batch, SIDE, SIDE, 3) for batch in (1, 2, 4)])
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    assert plan.nbytes > 0
