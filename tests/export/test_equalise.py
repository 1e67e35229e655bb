"""Channels of unlike range are evened by weights alone, through sums too."""

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from byolt_export.arrays import Images
from byolt_export.quantize.activation_statistics import collect_statistics, input_batches
from byolt_export.quantize.equalise import even_channels, gain_groups
from byolt_export.quantize.layers import find_layers
from byolt_export.runtime.onnx_runner import run_model

SIDE = 12


def residual(between: str = "Relu") -> onnx.ModelProto:
    """Two convolutions add to one stream, which a third reads; the stream's channels differ by 1 to 200 in range."""
    rng = np.random.default_rng(0)
    ranges = np.geomspace(1, 200, 8)[:, None, None, None]
    kernels = {
        "a": rng.normal(size=(8, 3, 3, 3)) / 255 * ranges,
        "b": rng.normal(size=(8, 8, 3, 3)) / ranges.swapaxes(0, 1) * ranges,
        "c": rng.normal(size=(5, 8, 1, 1)) / ranges.swapaxes(0, 1),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "a"], ["first"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["first"], ["stream"]),
        helper.make_node("Conv", ["stream", "b"], ["branch"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["branch", "stream"], ["sum"]),
        helper.make_node(between, ["sum"], ["read"]),
        helper.make_node("Conv", ["read", "c"], ["last"]),
        helper.make_node("GlobalAveragePool", ["last"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(kernel.astype(np.float32), name) for name, kernel in kernels.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def shown() -> Images:
    return np.random.default_rng(1).integers(0, 256, (24, SIDE, SIDE, 3), np.uint8)


def outputs(model: onnx.ModelProto) -> npt.NDArray[np.float32]:
    found = run_model(model.SerializeToString(), input_batches(model, shown()))
    return np.concatenate([values["embedding"] for values in found])


def unevenness(model: onnx.ModelProto, name: str) -> float:
    samples, _ = collect_statistics(model, find_layers(model)[0], shown())
    widest = np.maximum(-samples[name].low, samples[name].high)
    return float(widest.max() / widest.min())


def test_the_tensors_of_a_stream_are_one_group() -> None:
    model = residual()
    assert gain_groups(model, find_layers(model)[0]) == [{"first", "stream", "branch", "sum", "read"}]


def test_ranges_become_even_and_the_function_stays() -> None:
    model = residual()
    expected, before = outputs(model), unevenness(model, "read")
    even_channels(model, shown())
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(outputs(model), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert unevenness(model, "read") < before / 4


def test_a_channel_that_its_activation_silences_is_not_blown_up() -> None:
    model = residual()
    (kernel,) = (constant for constant in model.graph.initializer if constant.name == "b")
    values = numpy_helper.to_array(kernel).copy()
    values[3] = -np.abs(values[3]) * 100  # Far below 0 always: behind the ReLU there is nothing of it.
    kernel.CopyFrom(numpy_helper.from_array(values, "b"))
    samples, _ = collect_statistics(model, find_layers(model)[0], shown(), more=["branch"])
    assert samples["read"].high[3] == 0
    before = -samples["branch"].low[3] / samples["branch"].high.max()
    even_channels(model, shown())
    samples, _ = collect_statistics(model, find_layers(model)[0], shown(), more=["branch"])
    assert -samples["branch"].low[3] / samples["branch"].high.max() < before


@pytest.mark.parametrize("between", ["HardSwish", "Sigmoid"])
def test_what_keeps_no_factor_is_left_alone(between: str) -> None:
    model = residual(between)
    before = model.SerializeToString()
    assert gain_groups(model, find_layers(model)[0]) == []
    even_channels(model, shown())
    assert model.SerializeToString() == before


def normed(learned: bool = True) -> onnx.ModelProto:
    """A BatchNorm before the activation of the sum, as in a pre-activation block."""
    model, rng = residual(), np.random.default_rng(3)
    norm = {"scale": rng.uniform(0.5, 2, 8), "shift": rng.normal(size=8), "mean": rng.normal(size=8) * 30}
    norm["variance"] = np.geomspace(1, 200, 8) * rng.uniform(1, 3, 8)
    for name, values in norm.items():
        if learned or name != "shift":
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    if not learned:
        model.graph.node.insert(6, helper.make_node("ReduceSum", ["sum", "axes"], ["shift"], keepdims=0))
        model.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3]), "axes"))
    model.graph.node[-4].input[0] = "normed"
    model.graph.node.insert(
        len(model.graph.node) - 4, helper.make_node("BatchNormalization", ["sum", *norm], ["normed"])
    )
    return model


def test_a_batchnorm_takes_up_what_evens_the_channels_of_both_its_sides() -> None:
    model = normed()
    assert gain_groups(model, find_layers(model)[0]) == [{"first", "stream", "branch", "sum"}, {"normed", "read"}]
    expected, before = outputs(model), {name: unevenness(model, name) for name in ("stream", "read")}
    even_channels(model, shown())
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(outputs(model), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    for name, uneven in before.items():
        assert unevenness(model, name) < uneven / 4


def test_a_batchnorm_whose_shift_depends_on_the_images_is_left_alone() -> None:
    model = normed(learned=False)
    assert gain_groups(model, find_layers(model)[0]) == []


def gated(activation: str, turned: bool) -> onnx.ModelProto:
    """A squeeze-and-excitation between two convolutions; its channels differ by 1 to 200 in range."""
    model, rng = residual(), np.random.default_rng(2)
    del model.graph.node[3:8]
    gate = rng.normal(size=(8, 8, 1, 1)) / np.geomspace(1, 200, 8)[:, None, None]
    model.graph.initializer.append(numpy_helper.from_array(gate.astype(np.float32), "f"))
    nodes = [
        helper.make_node(activation, ["first"], ["hidden"]),
        helper.make_node("GlobalAveragePool", ["hidden"], ["squeezed"]),
        helper.make_node("Conv", ["squeezed", "f"], ["excitation"]),
        helper.make_node("Sigmoid", ["excitation"], ["gate"]),
        helper.make_node("Mul", ["gate", "hidden"] if turned else ["hidden", "gate"], ["read"]),
        helper.make_node("Conv", ["read", "c"], ["last"]),
    ]
    for place, node in enumerate(nodes, 3):
        model.graph.node.insert(place, node)
    return model


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("activation", ["Relu", "HardSwish"])
def test_a_gate_takes_up_what_evens_channels(activation: str, turned: bool) -> None:
    model = gated(activation, turned)
    before_gate = [{"first", "hidden", "squeezed"}] if activation == "Relu" else []
    assert gain_groups(model, find_layers(model)[0]) == [*before_gate, {"read"}]
    expected, before = outputs(model), {name: unevenness(model, name) for name in ("read", "squeezed")}
    even_channels(model, shown())
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(outputs(model), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert unevenness(model, "read") < before["read"] / 4
    assert (unevenness(model, "squeezed") < before["squeezed"] / 4) == (activation == "Relu")


def test_a_product_of_two_whole_tensors_is_no_gate() -> None:
    model = gated("Relu", turned=False)
    del model.graph.node[4:7]
    model.graph.node[4].input[1] = "first"
    assert gain_groups(model, find_layers(model)[0]) == []
