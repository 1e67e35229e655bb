import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tests.export.quantizing import quantize

from byolt_export.errors import InputError
from byolt_export.proof.measures import relative_l2
from byolt_export.quantize.activation_statistics import collect_statistics, input_batches, with_outputs
from byolt_export.quantize.calibrate import calibrate
from byolt_export.quantize.layers import find_layers
from byolt_export.runtime.onnx_runner import OnnxRunner, run_model

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


def test_multiply_adds_by_hand(fp16: Path) -> None:
    layers, total = find_layers(onnx.load(fp16))
    # 16 x 16 x 8 outputs of 3 x 9; stride 2: 8 x 8 x 16 of (8 / 4) x 9; 8 x 8 x 12 of 16 x 9; 12 x 10.
    expected = [16 * 16 * 8 * 27, 8 * 8 * 16 * 18, 8 * 8 * 12 * 144, 120]
    assert [layer.multiply_adds for layer in layers] == expected
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
    tensors, moments = collect_statistics(model, layers, shown)
    pixels = (shown.astype(np.float32) - 128) / 64
    assert tensors["x0"].low == pytest.approx(pixels.min(axis=(0, 1, 2)))
    assert tensors["x0"].high == pytest.approx(pixels.max(axis=(0, 1, 2)))
    head = layers[-1]
    alone = with_outputs(model, ["pooled"]).SerializeToString()
    pooled = np.concatenate([v["pooled"] for v in run_model(alone, input_batches(model, shown))]).astype(float)
    mean, covariance = moments[head.name].mean_and_covariance()
    assert mean == pytest.approx(pooled.mean(axis=0, keepdims=True), rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(covariance[0], np.cov(pooled.T, bias=True), rtol=1e-4, atol=1e-6)


def test_biases_take_up_the_mean_error_of_the_rounding(tmp_path: Path) -> None:
    shown = images(128)
    calibrated = calibrate(onnx.load(small_model(tmp_path / "fp32.onnx", dtype="float32")), shown)
    head = calibrated.layers[-1]
    samples, _ = collect_statistics(calibrated.model, calibrated.layers, shown)
    rows, rounded = samples[head.input].rows, calibrated.rounded[head.name]
    restored = (rounded.whole * rounded.scales[..., None])[0]
    moved = calibrated.levels[head.input].restored(rows) @ restored.T - rows @ head.as_matrices()[0].T
    uncorrected = moved.mean(axis=0)
    corrected = uncorrected + rounded.bias - head.bias()
    assert np.abs(corrected).max() < 0.01 * np.abs(uncorrected).max()


def test_int8_file_stores_int8_and_zero_points_of_zero(fp16: Path, tmp_path: Path) -> None:
    before = fp16.read_bytes()
    calibration = quantize(fp16, tmp_path / "int8.onnx", images=images(64), source="drawn", least_share=1.0)
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
    quantize(model, tmp_path / "int8.onnx", images=images(128), source="drawn", least_share=1.0)
    assert (
        any(n.op_type == "Sub" and "shift" in n.input[1] for n in onnx.load(tmp_path / "int8.onnx").graph.node) == relu
    )
    assert error(model, tmp_path / "int8.onnx") < 0.02


def test_least_error_beats_min_max(fp16: Path, tmp_path: Path) -> None:
    for rule in ("least error", "min-max"):
        quantize(fp16, tmp_path / f"{rule}.onnx", images=images(128), source="drawn", rule=rule, least_share=1.0)
    assert error(fp16, tmp_path / "least error.onnx") < 0.6 * error(fp16, tmp_path / "min-max.onnx")


def test_calibration_on_ten_images_shows(fp16: Path, tmp_path: Path) -> None:
    few = images(10)[np.arange(7).repeat(5)]  # None of the contrasty ones, again and again.
    quantize(fp16, tmp_path / "few.onnx", images=few, source="drawn", rule="min-max")
    quantize(fp16, tmp_path / "many.onnx", images=images(128), source="drawn")
    assert error(fp16, tmp_path / "few.onnx") > 5 * error(fp16, tmp_path / "many.onnx")


def test_the_most_harmful_layers_stay_fp16_within_the_share(fp16: Path, tmp_path: Path) -> None:
    layers, total = find_layers(onnx.load(fp16))
    half = quantize(fp16, tmp_path / "half.onnx", images=images(64), source="drawn", least_share=0.7)
    assert half.fp16_layers
    assert half.int8_share >= 0.7
    assert half.int8_share == sum(x.multiply_adds for x in layers if x.name not in half.fp16_layers) / total
    quantize(fp16, tmp_path / "all.onnx", images=images(64), source="drawn", least_share=1.0)
    assert error(fp16, tmp_path / "half.onnx") < error(fp16, tmp_path / "all.onnx")


def test_same_bytes_twice(fp16: Path, tmp_path: Path) -> None:
    first, second = (
        quantize(fp16, tmp_path / name, images=images(40), source="drawn") for name in ("1.onnx", "2.onnx")
    )
    assert first == second
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()
    other = quantize(fp16, tmp_path / "3.onnx", images=images(40, seed=1), source="drawn")
    assert other.sha256 != first.sha256


def test_a_float32_graph_can_be_quantised_too(tmp_path: Path) -> None:
    model = small_model(tmp_path / "fp32.onnx", dtype="float32")
    quantize(model, tmp_path / "int8.onnx", images=images(64), source="drawn", least_share=1.0)
    assert error(model, tmp_path / "int8.onnx") < 0.02


def test_too_few_images_are_refused(fp16: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^31 images are too few to calibrate INT8: give at least 32$"):
        quantize(fp16, tmp_path / "int8.onnx", images=images(31), source="drawn")
    assert not (tmp_path / "int8.onnx").exists()


def test_activations_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = small_model(tmp_path / "fp16.onnx", scale=3e3)  # fp16 ends at 65,504.
    with pytest.raises(InputError, match="`x[0-9]` is not finite on the calibration images"):
        quantize(model, tmp_path / "int8.onnx", images=images(32), source="drawn")


def test_a_graph_without_a_layer_to_quantise_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["embedding"], to=TensorProto.FLOAT)],
        "nothing",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", SIDE, SIDE, 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "nothing.onnx")
    with pytest.raises(InputError, match="has no layer with a constant kernel that INT8 fits"):
        quantize(tmp_path / "nothing.onnx", tmp_path / "int8.onnx", images=images(32), source="drawn")


def test_tensorrt_for_rtx_builds_the_file(fp16: Path, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    quantize(fp16, tmp_path / "int8.onnx", images=images(32), source="drawn", least_share=1.0)
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
