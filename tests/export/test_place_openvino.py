"""INT8 for OpenVINO: what the file says, what OpenVINO makes of it, and the bundle that holds it."""

import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from tests.export.small import HOW, Inverted, build, encoder, images
from tests.export.test_openvino import needs_openvino
from tests.export.test_place_cpu import every
from torch import Tensor, nn
from torch.nn import functional

from byolt_export import Encoder, verify
from byolt_export.bundle.folder import FILES, INT8_FILES, read_manifest, write_manifest
from byolt_export.errors import InputError, MissingPart
from byolt_export.files import sha256
from byolt_export.onnx.export import onnx_graph
from byolt_export.proof.measures import relative_l2
from byolt_export.proof.report import Report
from byolt_export.quantize.activation_statistics import outputs_of, with_outputs
from byolt_export.quantize.calibrate import Calibrated, calibrate
from byolt_export.quantize.int8 import Int8
from byolt_export.quantize.layers import Layer
from byolt_export.quantize.multiply_adds import precision_shares
from byolt_export.quantize.place_cpu import place_cpu
from byolt_export.quantize.place_openvino import place_openvino
from byolt_export.runtime.onnx_runner import CPU
from byolt_export.runtime.openvino_runner import OPENVINO, OpenVinoRunner

FILE = INT8_FILES["openvino"]


def calibrated_on_noise(module: nn.Module) -> Calibrated:
    return calibrate(onnx_graph(module.eval(), output_name="embedding", **HOW), images(64, seed=1))


class _Gated(nn.Module):
    """A convolution whose channels are gated: two convolutions of a single pixel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.gate = nn.Sequential(nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 1), nn.Sigmoid())
        self.last = nn.Conv2d(32, 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.last(x * self.gate(x.mean((2, 3), keepdim=True))).relu().mean((2, 3))


def tensors(model: Any, names: list[str]) -> list[Any]:
    """Of eight images, with nothing fused."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    held = with_outputs(model, names).SerializeToString()
    session = onnxruntime.InferenceSession(held, options, providers=["CPUExecutionProvider"])
    return list(session.run(names, {"images": images(8, seed=2)}))


def by_hand(calibrated: Calibrated, layer: Layer, x: Any) -> Any:
    """A convolution of its input after 256 levels, by the whole numbers of its kernel."""
    levels, rounded = calibrated.levels[layer.input], calibrated.rounded[layer.name]
    whole = np.clip(np.round(x / levels.scale) + levels.zero_point, 0, 255)
    restored = torch.from_numpy(((whole - levels.zero_point) * levels.scale).astype(np.float32))
    kernel = layer.from_matrices(rounded.whole * rounded.scales[..., None]).astype(np.float32)
    (stride, _), pads = layer.attributes["strides"], layer.attributes["pads"]
    bias = torch.from_numpy(rounded.bias.astype(np.float32))
    return functional.conv2d(restored, torch.from_numpy(kernel), bias, stride, pads[0], groups=layer.groups).numpy()


@pytest.mark.parametrize(("module", "convolutions"), [(encoder, 13), (_Gated, 4)])
def test_a_layer_is_computed_of_whole_numbers_alone(module: Any, convolutions: int) -> None:
    calibrated = calibrated_on_noise(module())
    layers = [layer for layer in calibrated.layers if layer.is_conv]
    assert len(layers) == convolutions
    for layer in layers:
        model = place_openvino(calibrated.model, calibrated, {layer.name})
        x, y = tensors(model, [layer.input, layer.name])
        np.testing.assert_allclose(y, by_hand(calibrated, layer, x), rtol=1e-4, atol=1e-4 * np.abs(y).max())
    assert len({calibrated.levels[layer.input].zero_point for layer in layers}) > 1  # One that is lost shows.


def test_inputs_and_kernels_are_rounded_and_nothing_behind_a_layer() -> None:
    calibrated = calibrated_on_noise(encoder())
    model = place_openvino(calibrated.model, calibrated, every(calibrated))
    onnx.checker.check_model(model, full_check=True)
    assert precision_shares(model) == {"int8": 1.0}
    kinds = Counter(node.op_type for node in model.graph.node)
    inputs = {layer.input for layer in calibrated.layers}
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (len(inputs), len(inputs) + len(calibrated.layers))
    shown = images(40, seed=2)
    expected = outputs_of(calibrated.model, shown)
    behind = outputs_of(place_cpu(calibrated.model, calibrated, every(calibrated)), shown, "cpu")
    errors = [relative_l2(expected, found).mean() for found in (outputs_of(model, shown, "openvino"), behind)]
    assert 0 < errors[0] < 0.8 * errors[1]


@needs_openvino
@pytest.mark.parametrize("module", [encoder, Inverted, _Gated])
def test_openvino_multiplies_in_whole_numbers(module: Any, tmp_path: Path) -> None:
    calibrated = calibrated_on_noise(module())
    model = place_openvino(calibrated.model, calibrated, every(calibrated))
    onnx.save(model, tmp_path / "int8.onnx")
    run = OpenVinoRunner(tmp_path / "int8.onnx", threads=1)
    kinds = [
        (operator.get_rt_info()["layerType"].astype(str), operator.get_rt_info()["runtimePrecision"].astype(str))
        for operator in run._compiled.get_runtime_model().get_ops()
    ]
    products = [kind for kind in kinds if kind[0] in ("Convolution", "FullyConnected", "MatMul")]
    assert len(products) == len(calibrated.layers)
    assert {precision for _, precision in products} <= {"u8", "i8"}
    shown = images(10, seed=2)
    assert relative_l2(outputs_of(model, shown, "openvino"), run(shown)).max() < 5e-3


@needs_openvino
def test_outputs_do_not_depend_on_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As convolutions in INT8 OpenVINO computes a gate's two others at batch 1."""
    monkeypatch.setattr("byolt_export.quantize.deciding.enough", lambda *_, **_how: 0.0)
    graph = onnx_graph(_Gated().eval(), output_name="embedding", **HOW)
    int8 = Int8.of(graph, images(128, seed=1), "drawn")
    record = int8.for_cpu(tmp_path / "int8.onnx", "openvino")
    assert record is not None
    assert (record.fp16_layers, record.int8_share) == ((), 1.0)
    model = onnx.load(tmp_path / "int8.onnx")
    assert precision_shares(model) == {"int8": 1.0}
    run, shown = OpenVinoRunner(tmp_path / "int8.onnx", threads=1), images(8, seed=2)
    expected = outputs_of(model, shown, "openvino")
    for found in (run(shown), np.concatenate([run(shown[k : k + 1]) for k in range(8)])):
        assert relative_l2(expected, found).max() < 1e-5


def classifier(folder: Path, **how: Any) -> Report:
    """The bundle of one whose INT8 passes."""
    given = {"classes": tuple("abcde"), "calibration": images(64, seed=1), "precisions": ("fp32", "int8")} | how
    return build(folder, encoder(num_classes=5), **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return classifier(tmp_path_factory.mktemp("openvino") / "bundle", openvino=True)


@needs_openvino
def test_a_bundle_has_it_where_it_is_asked_for(made: Report, tmp_path: Path) -> None:
    report = replace(made, path=Path(shutil.copytree(made.path, tmp_path / "bundle")))
    assert [file.name for file in report.files] == [FILES["fp32"], *INT8_FILES.values()]
    judged = report.files[-1]
    assert (judged.name, judged.provider, judged.parity.verdict) == (FILE, OPENVINO, "passed")
    assert {speed.runtime for speed in judged.speeds} == {"openvino"}
    entry = read_manifest(report.path).files[-1]
    assert (entry.name, entry.placement, entry.verdict) == (FILE, "openvino", "passed")
    again = {(file.name, file.provider): file.parity for file in verify(report.path, (CPU,)).files}
    assert (FILE, CPU) not in again  # It is proven in OpenVINO, whatever is asked for.
    assert (again[FILE, OPENVINO].verdict, again[FILE, OPENVINO].drift_mean) == ("passed", 0.0)
    for runtime, file in (("openvino", FILE), ("cpu", INT8_FILES["cpu"])):
        assert Encoder(report.path, runtime=runtime, precision="int8").file == file  # type: ignore[arg-type]
    told: list[str] = []
    report = classifier(report.path, on_log=told.append)
    assert report.files[-1].name == FILE
    assert told[-1] == f"kept of the earlier bundle, which is of the same encoder: {FILE}"


@needs_openvino
def test_one_scale_that_is_off_by_a_hundredth_fails(made: Report, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(made.path, tmp_path / "bundle"))
    model = onnx.load(bundle / FILE)
    scale = next(value for value in model.graph.initializer if value.name.endswith(".kernel.scale"))
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.01), scale.name))
    onnx.save(model, bundle / FILE)
    manifest = read_manifest(bundle)
    entry = manifest.files[-1].model_copy(update={"sha256": sha256(bundle / FILE)})
    write_manifest(bundle, manifest.model_copy(update={"files": (*manifest.files[:-1], entry)}))
    (parity,) = (file.parity for file in verify(bundle, (CPU,)).files if file.name == FILE)
    assert parity.verdict == "failed"
    assert "from what the file itself gave when it was made" in "; ".join(parity.reasons)


def test_what_it_needs_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="^export: INT8 for OpenVINO is asked for, but no INT8: add int8"):
        build(tmp_path / "bundle", openvino=True)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPart, match='^OpenVINO is not installed: pip install "byolt\\[openvino\\]"$'):
        build(tmp_path / "bundle", precisions=("fp32", "int8"), openvino=True)
    assert list(tmp_path.iterdir()) == []
