"""Kernels that are computed from weights, folded at export; transposed convolutions, counted and quantised."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tests.export.quantizing import quantize
from tests.export.small import HOW, images
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from byolt_export.onnx.export import export_onnx
from byolt_export.onnx.reference import torch_outputs
from byolt_export.proof.measures import relative_l2
from byolt_export.quantize.layers import find_layers
from byolt_export.quantize.multiply_adds import multiply_adds, precision_shares
from byolt_export.runtime.onnx_runner import OnnxRunner


def normed(kind: str) -> nn.Module:
    from timm.layers import ScaledStdConv2d, StdConv2d

    convs = {
        "weight_norm": lambda: parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
        "spectral_norm": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)),
        "StdConv2d": lambda: StdConv2d(3, 8, 3, padding=0),
        "ScaledStdConv2d": lambda: ScaledStdConv2d(3, 8, 3, padding=0),
        "a gain of its own": Gained,
    }
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    for statistic in (norm.running_mean, norm.weight.data, norm.bias.data, norm.running_var):
        statistic.uniform_(0.5, 2)  # type: ignore[union-attr]
    return nn.Sequential(convs[kind](), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)).eval()


class Gained(nn.Module):
    """A kernel of zero mean times its exponent of a gain, and a bias that is computed too."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.gain = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8, 1, 1, 1) / 3)
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        kernel = (self.kernel - self.kernel.mean((1, 2, 3), keepdim=True)) * self.gain.exp()
        return nn.functional.conv2d(x, kernel, self.bias.tanh())


@pytest.mark.parametrize(
    "kind", ["weight_norm", "StdConv2d", *(pytest.param(k, marks=pytest.mark.full)
             for k in ("spectral_norm", "ScaledStdConv2d", "a gain of its own"))]
)  # fmt: skip
def test_a_computed_kernel_becomes_one_convolution_with_its_norm(kind: str, tmp_path: Path) -> None:
    module, shown = normed(kind), images(40)
    reference = torch_outputs(module, shown, **HOW)
    for precision, limit in (("fp32", 1e-5), ("fp16", 5e-3)):
        path = tmp_path / f"{precision}.onnx"
        export_onnx(module, path, output_name="embedding", precision=precision, **HOW)  # type: ignore[arg-type]
        assert relative_l2(reference, OnnxRunner(path)(shown)).max() < limit
    operators = [node.op_type for node in onnx.load(tmp_path / "fp32.onnx").graph.node]
    assert operators[:6] == ["Cast", "Transpose", "Mul", "Add", "Conv", "Relu"]
    layers, total = find_layers(onnx.load(tmp_path / "fp16.onnx"))
    assert [layer.kernel.shape for layer in layers] == [(8, 3, 3, 3), (6, 8)]
    assert sum(layer.multiply_adds for layer in layers) == total == 30 * 30 * 8 * 27 + 8 * 6


HOWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strided": {"strides": [2, 3], "pads": [1, 0, 1, 1]},
    "dilated": {"strides": [2, 2], "dilations": [2, 1], "pads": [2, 1, 1, 1], "output_padding": [1, 0]},
}


def transposed(how: dict[str, Any], groups: int = 1) -> onnx.ModelProto:
    """Raw images (batch, 6, 5, 3) -> a transposed convolution (3, 4, 3, 2) -> the mean of each of its channels."""
    kernel = np.random.default_rng(0).normal(size=(3, 4, 3, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["x"]),
        helper.make_node("ConvTranspose", ["x", "k"], ["conv"], group=groups, **how),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("ReduceMean", ["relu", "axes"], ["embedding"], keepdims=0),
    ]
    scale, axes = np.array(1 / 64, np.float32), np.array([2, 3], np.int64)
    constants = {"k": kernel, "scale": scale, "axes": axes}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 6, 5, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 4 * groups])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("how", HOWS)
def test_windows_times_matrices_are_the_transposed_convolution(how: str) -> None:
    (layer,), _ = find_layers(transposed(HOWS[how]))
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(np.float32)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    node = helper.make_node("ConvTranspose", ["x", "k"], ["y"], **HOWS[how])
    graph = helper.make_graph([node], "conv", info[:1], info[1:], [numpy_helper.from_array(layer.kernel, "k")])
    evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    (expected,) = evaluator.run(None, {"x": x})
    got = layer.windows(x, 10**6) @ layer.as_matrices().transpose(0, 2, 1)  # (1, places, 4)
    got = got.reshape(2, *expected.shape[2:], 4).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert np.array_equal(layer.from_matrices(layer.as_matrices()), layer.kernel)
    assert layer.multiply_adds == 3 * 6 * 5 * 4 * 3 * 2


@pytest.mark.parametrize("how", HOWS)
def test_a_transposed_convolution_in_int8(how: str, tmp_path: Path) -> None:
    onnx.save(transposed(HOWS[how]), tmp_path / "fp32.onnx")
    shown, held_out = (np.random.default_rng(k).integers(0, 256, (48, 6, 5, 3), np.uint8) for k in (0, 1))
    record = quantize(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", images=shown, source="drawn", least_share=1.0)
    assert record.int8_share == 1
    assert precision_shares(onnx.load(tmp_path / "int8.onnx")) == {"int8": 1}
    expected, found = (OnnxRunner(tmp_path / f"{name}.onnx")(held_out) for name in ("fp32", "int8"))
    assert 0 < relative_l2(expected, found).max() < 0.02


def test_one_that_int8_does_not_fit_is_counted_as_what_it_is() -> None:
    grouped = transposed({}, groups=3)
    layers, total = find_layers(grouped)
    assert (layers, total) == ([], 3 * 6 * 5 * 4 * 3 * 2)
    assert precision_shares(grouped) == {"fp32": 1}


@pytest.mark.parametrize(
    ("node", "shapes", "expected"),
    [
        (helper.make_node("Einsum", ["a", "b"], ["y"], equation="bchw, cd -> bdhw"),
         {"a": (1, 3, 5, 7), "b": (3, 4), "y": (1, 4, 5, 7)}, 3 * 5 * 7 * 4),
        (helper.make_node("Einsum", ["a", "b"], ["y"], equation="...ij,...jk->...ik"),
         {"a": (2, 6, 3, 4), "b": (2, 6, 4, 5), "y": (2, 6, 3, 5)}, 2 * 6 * 3 * 4 * 5),
        (helper.make_node("Einsum", ["a"], ["y"], equation="bij->bji"), {"a": (1, 3, 4), "y": (1, 4, 3)}, 0),
        (helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=5),
         {"x": (9, 1, 3), "w": (1, 20, 3), "r": (1, 20, 5), "y": (9, 1, 1, 5)}, 9 * 20 * (3 + 5)),
    ],
)  # fmt: skip
def test_multiply_adds_of_what_has_an_equation_or_steps(node: Any, shapes: Any, expected: int) -> None:
    assert multiply_adds(node, shapes) == expected
