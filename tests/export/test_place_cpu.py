"""INT8 for a CPU: what ONNX Runtime makes of the file, node by node, and what comes out."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, numpy_helper
from tests.export.small import HOW, Inverted, Windows, encoder, images
from torch import Tensor, nn
from torch.nn import functional

from byolt_export.onnx.export import export_onnx
from byolt_export.proof.measures import relative_l2
from byolt_export.quantize.calibrate import Calibrated, calibrate
from byolt_export.quantize.int8 import Int8
from byolt_export.quantize.layers import written_tensors
from byolt_export.quantize.multiply_adds import precision_shares
from byolt_export.quantize.place_cpu import _Placement, place_cpu
from byolt_export.quantize.place_openvino import place_openvino


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cpu") / "encoder.onnx"
    export_onnx(encoder().eval(), path, output_name="embedding", **HOW)
    return path


@pytest.fixture(scope="module")
def calibrated(path: Path) -> Calibrated:
    return calibrate(onnx.load(path), images(64, seed=1))


def every(calibrated: Calibrated) -> set[str]:
    return {layer.name for layer in calibrated.layers}


def outputs(model: bytes) -> npt.NDArray[Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images(40, seed=2)})[0])


# Kernels keep the order of the file.
ORDERED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED


def as_run(model: ModelProto, folder: Path, level: onnxruntime.GraphOptimizationLevel = ORDERED) -> ModelProto:
    """What ONNX Runtime computes of a model, after its own rewriting."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "as_run.onnx")
    options.log_severity_level = 4
    options.graph_optimization_level = level
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "as_run.onnx")


def test_every_convolution_is_computed_in_whole_numbers(calibrated: Calibrated, tmp_path: Path) -> None:
    model = place_cpu(calibrated.model, calibrated, every(calibrated))
    onnx.checker.check_model(model, full_check=True)
    assert precision_shares(model) == {"int8": 1.0}
    run = as_run(model, tmp_path)
    kinds = Counter(node.op_type for node in run.graph.node)
    as_products = sum(layer.is_pointwise for layer in calibrated.layers)
    assert (kinds["QLinearConv"], kinds["QGemm"]) == (len(calibrated.layers) - as_products, as_products)
    assert kinds["Conv"] == kinds["FusedConv"] == 0
    constants = {constant.name for constant in run.graph.initializer}
    restored = [n for n in run.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    assert restored == []  # No constant is computed again on every call.


def test_pixels_and_their_largest_are_never_restored(calibrated: Calibrated) -> None:
    model = place_cpu(calibrated.model, calibrated, every(calibrated))
    makers = {output: node for node in model.graph.node for output in node.output}
    (pooling,) = (node for node in model.graph.node if node.op_type == "MaxPool")
    assert makers[pooling.input[0]].op_type == "QuantizeLinear"
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    chain, name = [], makers[first.input[0]].input[0]
    while name in makers:
        chain.append(makers[name].op_type)
        name = makers[name].input[0]
    assert chain == ["Reshape", "Pad", "Reshape", "Transpose"]
    assert name == "images"  # Bytes from the first to the last.


def test_the_constant_channel_is_added_as_a_whole_plane(calibrated: Calibrated, tmp_path: Path) -> None:
    """Left with four axes ONNX Runtime moves the Pad before the transposition, and adds a value behind each pixel."""
    model = place_cpu(calibrated.model, calibrated, every(calibrated))
    run = as_run(model, tmp_path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
    pads = {constant.name: numpy_helper.to_array(constant).tolist() for constant in run.graph.initializer}
    (pad,) = (node for node in run.graph.node if node.op_type == "Pad")
    assert pads[pad.input[1]] == [0, 0, 0, HOW["pixels"].size_px ** 2]


class _Tokens(nn.Module):
    """Two linear layers on patches, as a transformer's."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, stride=4)
        self.layers = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        answers = self.layers(tokens)
        return torch.cat([(tokens + answers).mean(dim=1), answers.amax(dim=1)], dim=1)


def test_a_product_of_matrices_is_not_rounded_behind_and_adds_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = _Tokens().eval()
    with torch.no_grad():
        module.layers[0].bias.add_(3)  # A bias that was lost, or added twice, would show.
    export_onnx(module, tmp_path / "encoder.onnx", output_name="embedding", **HOW)
    calibrated = calibrate(onnx.load(tmp_path / "encoder.onnx"), images(64, seed=1))
    model = place_cpu(calibrated.model, calibrated, every(calibrated))
    products = [layer for layer in calibrated.layers if layer.is_matmul]
    assert len(products) == 2
    kinds, before = (Counter(node.op_type for node in of.graph.node) for of in (model, calibrated.model))
    rounded = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert not rounded & {layer.name for layer in products}
    assert kinds["Add"] == before["Add"] + 1  # The second layer has no bias that its own could go into.
    assert Counter(node.op_type for node in as_run(model, tmp_path).graph.node)["MatMulIntegerToFloat"] == 2
    reference = outputs((tmp_path / "encoder.onnx").read_bytes())
    assert relative_l2(reference, outputs(model.SerializeToString())).mean() < 0.02


def test_a_convolution_of_single_pixels_is_not_rounded_before_a_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_onnx(Inverted().eval(), tmp_path / "encoder.onnx", output_name="embedding", **HOW)
    calibrated = calibrate(onnx.load(tmp_path / "encoder.onnx"), images(64, seed=1))
    model = place_cpu(calibrated.model, calibrated, every(calibrated))
    last = [layer.name for layer in calibrated.layers if layer.is_pointwise and layer.outputs == 16]
    rounded = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert len(last) == 2
    assert not rounded & set(last)
    assert precision_shares(model) == {"int8": 1.0}
    kinds = Counter(node.op_type for node in as_run(model, tmp_path).graph.node)
    assert (kinds["QGemm"], kinds["QLinearConv"]) == (2, 5)  # What a layer in INT8 reads is rounded.
    reference = outputs((tmp_path / "encoder.onnx").read_bytes())
    alone = place_cpu(calibrated.model, calibrated, set(last))
    error = relative_l2(reference, outputs(alone.SerializeToString())).mean()
    monkeypatch.setattr(_Placement, "_unread", lambda *_: set())
    as_convolutions = place_cpu(calibrated.model, calibrated, set(last))
    assert error < 0.9 * relative_l2(reference, outputs(as_convolutions.SerializeToString())).mean()


def test_windows_side_by_side_are_the_convolution(tmp_path: Path) -> None:
    export_onnx(Windows().eval(), tmp_path / "encoder.onnx", output_name="embedding", **HOW)
    calibrated = calibrate(onnx.load(tmp_path / "encoder.onnx"), images(64, seed=1))
    names = {layer.name for layer in calibrated.layers if layer.input != calibrated.pixels}
    model = place_cpu(calibrated.model, calibrated, names, unrounded=True)
    onnx.checker.check_model(model, full_check=True)
    kinds = Counter(node.op_type for node in as_run(model, tmp_path).graph.node)
    assert (kinds["QGemm"], kinds["QLinearConv"]) == (2, 1)  # Few channels to few outputs stay a convolution.
    few = next(layer.name for layer in calibrated.layers if layer.outputs == 8)
    alike = (place(calibrated.model, calibrated, names - {few}) for place in (_unrounded, place_openvino))
    unrounded, on_inputs = (outputs(each.SerializeToString()) for each in alike)
    np.testing.assert_allclose(unrounded, on_inputs, atol=1e-5 * np.abs(on_inputs).max())
    rounded = outputs(place_cpu(calibrated.model, calibrated, names - {few}).SerializeToString())
    reference = outputs((tmp_path / "encoder.onnx").read_bytes())
    assert relative_l2(reference, unrounded).mean() < 0.9 * relative_l2(reference, rounded).mean()


def _unrounded(*given: Any) -> ModelProto:
    return place_cpu(*given, unrounded=True)


def test_all_layers_unrounded_are_tried_before_layers_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_onnx(Windows().eval(), tmp_path / "encoder.onnx", output_name="embedding", **HOW)
    lines: list[str] = []
    int8 = Int8.of(onnx.load(tmp_path / "encoder.onnx"), images(128, seed=1), "drawn", on_log=lines.append)
    monkeypatch.setattr("byolt_export.quantize.deciding.enough", lambda *_, **_how: 1.1)
    for choice, kinds in (("plain", [False, True, True]), ("safest", [True])):
        lines.clear()
        assert int8.for_cpu(tmp_path / "none.onnx", choice=choice) is None
        tried = [line for line in lines if line.startswith("INT8 for cpu: ") and "multiply-adds" in line]
        assert [line.endswith(", rounded before no sum") for line in tried][: len(kinds)] == kinds
    lines.clear()
    int8.for_cpu(tmp_path / "none.onnx", "openvino")
    assert not any("rounded before" in line for line in lines)
    export_onnx(Inverted().eval(), tmp_path / "encoder.onnx", output_name="embedding", **HOW)
    lines.clear()
    int8 = Int8.of(onnx.load(tmp_path / "encoder.onnx"), images(128, seed=1), "drawn", on_log=lines.append)
    assert int8.for_cpu(tmp_path / "none.onnx", least_share=1.0) is None
    assert len([line for line in lines if line.startswith("INT8 for cpu: 100%")]) == 1  # Nothing more is unrounded.


def test_outputs_stay_near_those_of_fp32(path: Path, calibrated: Calibrated) -> None:
    model = place_cpu(calibrated.model, calibrated, every(calibrated))
    error = relative_l2(outputs(path.read_bytes()), outputs(model.SerializeToString()))
    assert error.mean() < 0.05  # One padding, zero point or scale done wrong moves them by 30 % and more.


def test_a_layer_that_is_kept_has_its_own_kernel_in_fp32(calibrated: Calibrated, tmp_path: Path) -> None:
    kept = calibrated.layers[1]  # Between bytes that were pooled and a ReLU that is rounded.
    model = place_cpu(calibrated.model, calibrated, every(calibrated) - {kept.name})
    assert set(precision_shares(model)) == {"int8", "fp32"}
    run = as_run(model, tmp_path)
    single = [node for node in run.graph.node if node.op_type in ("Conv", "FusedConv")]
    assert len(single) == 1
    kernels = {constant.name: constant for constant in run.graph.initializer}
    # Left to itself ONNX Runtime would round it to int8, by one scale for all of it.
    np.testing.assert_array_equal(numpy_helper.to_array(kernels[single[0].input[1]]), kept.kernel)


def test_the_layer_that_reads_the_pixels_may_stay_fp32(path: Path, calibrated: Calibrated, tmp_path: Path) -> None:
    first = next(layer for layer in calibrated.layers if layer.input == calibrated.pixels)
    alone = place_cpu(calibrated.model, calibrated, {first.name})
    without = place_cpu(calibrated.model, calibrated, every(calibrated) - {first.name})
    run = as_run(without, tmp_path)
    kernels = {constant.name: numpy_helper.to_array(constant) for constant in run.graph.initializer}
    single = [node for node in run.graph.node if node.op_type in ("Conv", "FusedConv")]
    assert [kernels[node.input[1]].tolist() for node in single] == [first.kernel.tolist()]
    reference = outputs(path.read_bytes())
    errors = [relative_l2(reference, outputs(model.SerializeToString())).mean() for model in (alone, without)]
    assert 0 < max(errors) < 0.05


def test_a_bundles_file_leaves_out_what_it_must(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    int8 = Int8.of(onnx.load(path), images(128, seed=1), "drawn")
    monkeypatch.setattr("byolt_export.quantize.deciding.enough", lambda *_, **_how: 0.5)
    record = int8.for_cpu(tmp_path / "all.onnx")
    assert record is not None
    assert (record.int8_share, record.fp16_layers) == (1.0, ())
    monkeypatch.setattr("byolt_export.quantize.int8.SHARES", (0.6,))
    least = int8.for_cpu(tmp_path / "least.onnx")
    assert least is not None
    assert 0.6 <= least.int8_share < 1
    assert sum(layer.multiply_adds for layer in int8.calibrated.layers if layer.name in least.fp16_layers) == (
        pytest.approx((1 - least.int8_share) * int8.calibrated.multiply_adds)
    )
    reference = outputs(path.read_bytes())
    errors = [relative_l2(reference, outputs((tmp_path / f"{n}.onnx").read_bytes())).mean() for n in ("all", "least")]
    assert errors[1] < errors[0]
    monkeypatch.setattr("byolt_export.quantize.deciding.enough", lambda *_, **_how: 1.1)
    assert int8.for_cpu(tmp_path / "none.onnx") is None
    assert not (tmp_path / "none.onnx").exists()


class _Hard(nn.Module):
    """Hard-sigmoid as torch exports it."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.hardsigmoid(x)


@pytest.mark.parametrize(
    ("activation", "least", "most"),
    [
        *((nn.Hardswish(), -3.0, np.inf), (_Hard(), -3.0, 3.0), (nn.SiLU(), -8.0, np.inf), (nn.Sigmoid(), -8.0, 8.0)),
        *((nn.ReLU6(), 0.0, 6.0), (nn.Tanh(), -np.inf, np.inf)),
    ],
)
def test_no_level_is_spent_where_the_activation_tells_nothing_apart(
    activation: nn.Module, least: float, most: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        first.weight.mul_(40)  # Outputs reach beyond 15 on both sides.
    module = nn.Sequential(first, activation, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    export_onnx(module, tmp_path / "encoder.onnx", output_name="embedding", **HOW)
    calibrated = calibrate(onnx.load(tmp_path / "encoder.onnx"), images(64, seed=1))
    (written,) = written_tensors(calibrated.model, calibrated.layers).values()
    low, high = calibrated.levels[written].bounds
    step = (high - low) / 255
    assert least - step <= low
    assert high <= most + step
    assert low <= 0.9 * max(least, -15)
    assert high > 0.9 * min(most, 15)
    beyond = torch.tensor([least, most])
    beyond = beyond[beyond.isfinite()]
    torch.testing.assert_close(activation(beyond), activation(beyond * 10), rtol=0, atol=3e-3)
