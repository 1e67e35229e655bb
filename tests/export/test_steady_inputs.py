"""INT8 of layers whose input hardly depends on the image: gates that are nearly 1, a learned query, what is dead."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.export.quantizing import quantize
from tests.export.test_precision import images

from byolt_export.proof.measures import relative_l2
from byolt_export.quantize.activation_statistics import Moments, collect_statistics
from byolt_export.quantize.calibrate import _rounded_layers
from byolt_export.quantize.layers import find_layers
from byolt_export.runtime.onnx_runner import OnnxRunner

SIDE, WIDTH, DIM = 16, 96, 8
# What becomes of features (B, WIDTH) between 0 and 2, as a factor and an offset.
STEADY = {"gates of 1 +/- 0.01": (0.01, 1.0), "a learned query": (0.0, 0.7), "hardly more than rounding": (2e-4, 3.0)}


def steady_model(path: Path, factor: float, offset: float) -> Path:
    """Raw images -> features -> ``factor * features + offset`` -> a product, added to one of the features."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "scale": np.array(1 / 255, np.float32),
        "patches": rng.normal(size=(WIDTH, 3, SIDE, SIDE)).astype(np.float32) / SIDE,
        "two": np.array(2, np.float32),
        "factor": np.array(factor, np.float32),
        "offset": (offset + 0.1 * rng.normal(size=WIDTH)).astype(np.float32),
        "steady": rng.normal(size=(WIDTH, DIM)).astype(np.float32) / 10,
        "features": rng.normal(size=(WIDTH, DIM)).astype(np.float32) / 10,
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["x"]),
        helper.make_node("Conv", ["x", "patches"], ["conv"]),
        helper.make_node("Flatten", ["conv"], ["flat"]),
        helper.make_node("Sigmoid", ["flat"], ["between"]),
        helper.make_node("Mul", ["between", "two"], ["given"]),
        helper.make_node("Mul", ["given", "factor"], ["small"]),
        helper.make_node("Add", ["small", "offset"], ["still"]),
        helper.make_node("MatMul", ["still", "steady"], ["a"]),
        helper.make_node("MatMul", ["given", "features"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "steady",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize("case", STEADY)
def test_a_steady_input_is_quantised_as_well_as_any(case: str, tmp_path: Path) -> None:
    model = steady_model(tmp_path / "fp32.onnx", *STEADY[case])
    record = quantize(model, tmp_path / "int8.onnx", images=images(48), source="drawn", least_share=1.0)
    assert (record.rule, record.int8_share) == ("least error", 1.0)
    held_out = images(64, seed=5)
    # The bias takes up what the mean carries; rounding to int8 costs the features themselves about half of that.
    error = relative_l2(OnnxRunner(model)(held_out), OnnxRunner(tmp_path / "int8.onnx")(held_out))
    assert error.max() < 0.02


def test_moments_keep_a_spread_that_is_a_millionth_of_the_mean(tmp_path: Path) -> None:
    model = onnx.load(steady_model(tmp_path / "fp32.onnx", 1e-3, 4.0))
    layers, _ = find_layers(model)
    (layer,) = (layer for layer in layers if layer.input == "still")
    shown = images(64)
    _, moments = collect_statistics(model, layers, shown)
    mean, covariance = moments[layer.name].mean_and_covariance()
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    alone.graph.output[0].name = "still"
    onnx.save(alone, tmp_path / "still.onnx")
    values = OnnxRunner(tmp_path / "still.onnx")(shown).astype(np.float64)
    assert mean[0] == pytest.approx(values.mean(axis=0), rel=1e-12)
    # Float32 sums have an error of 1e-7 * 16 = 2e-6, more than the whole spread.
    np.testing.assert_allclose(covariance[0], np.cov(values.T, bias=True), rtol=1e-4, atol=1e-12)
    assert np.diag(covariance[0]).max() < 1e-6


def test_a_layer_whose_moments_tell_nothing_is_rounded_to_nearest_and_named(tmp_path: Path) -> None:
    model = onnx.load(steady_model(tmp_path / "fp32.onnx", 1.0, 0.0))
    layers, _ = find_layers(model)
    _, moments = collect_statistics(model, layers, images(40))
    still = {layer.input: np.zeros(layer.kernel.shape[1] if layer.is_conv else WIDTH, np.float32) for layer in layers}
    _, plain = _rounded_layers(layers, still, moments, "least error")
    assert plain == ()
    # A spread below 0 by rounding alone, beside a mean of 1: what fp16 does not tell apart is added to it.
    nearly = moments | {"b": Moments(1, np.ones((1, WIDTH)), np.full((1, WIDTH, WIDTH), 1 - 1e-9))}
    assert _rounded_layers(layers, still, nearly, "least error")[1] == ()
    indefinite = moments | {"b": Moments(1, np.zeros((1, WIDTH)), -np.eye(WIDTH)[None])}
    rounded, plain = _rounded_layers(layers, still, indefinite, "least error")
    assert plain == ("b",)
    (layer,) = (layer for layer in layers if layer.name == "b")
    exact = layer.as_matrices() / rounded["b"].scales[..., None]
    assert np.abs(rounded["b"].whole - exact).max() <= 0.5 + 1e-4
    assert np.abs(rounded["b"].whole).max() == 127
