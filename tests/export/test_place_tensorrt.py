"""INT8 for TensorRT: where a tensor goes from INT8 layers to INT8 layers alone, nothing is computed between them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.export.small import HOW, encoder, images
from torch import nn

from byolt_export.onnx.export import export_onnx
from byolt_export.onnx.half_precision import to_half
from byolt_export.proof.measures import relative_l2
from byolt_export.quantize.calibrate import Calibrated, calibrate
from byolt_export.quantize.layers import activation_bounds
from byolt_export.quantize.multiply_adds import precision_shares
from byolt_export.quantize.place_tensorrt import LEAVING_SCALE, place_tensorrt
from byolt_export.runtime.onnx_runner import run_model


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    path = tmp_path_factory.mktemp("tensorrt") / "encoder.onnx"
    export_onnx(encoder().eval(), path, output_name="embedding", **HOW)
    return calibrate(onnx.load(path), images(64, seed=1))


def test_a_layer_that_gives_the_output_becomes_int8_too(tmp_path: Path) -> None:
    """In fp16 its tensor has another name, from which the graph's output is cast."""
    path = tmp_path / "classifier.onnx"
    export_onnx(encoder(num_classes=5).eval(), path, output_name="logits", **HOW)
    calibrated = calibrate(onnx.load(path), images(64, seed=1))
    assert calibrated.layers[-1].name == "logits"
    names = {layer.name for layer in calibrated.layers}
    for model in (calibrated.model, to_half(calibrated.model)):
        placed = place_tensorrt(model, calibrated, names)
        onnx.checker.check_model(placed, full_check=True)
        assert precision_shares(placed) == {"int8": 1.0}
        answers = [
            next(run_model(each.SerializeToString(), [{"images": images(16, seed=3)}]))["logits"]
            for each in (placed, calibrated.model)
        ]
        assert relative_l2(answers[1], answers[0]).mean() < 0.03


def test_the_layer_that_reads_the_pixels_is_nearer_in_fp16(calibrated: Calibrated) -> None:
    first = next(layer for layer in calibrated.layers if layer.input == calibrated.pixels)
    half = to_half(calibrated.model)
    reference = outputs(calibrated.model)
    as_int8, as_fp16 = (
        relative_l2(reference, outputs(model)).mean()
        for model in (place_tensorrt(half, calibrated, {first.name}), half)
    )
    assert as_fp16 < as_int8 / 2


def outputs(model: Any) -> npt.NDArray[Any]:
    shown = [{"images": images(16, seed=seed)} for seed in (3, 4)]
    return np.concatenate([answer["embedding"] for answer in run_model(model.SerializeToString(), shown)])


def between(model: Any, first: str, second: str) -> list[str]:
    """Operators from a layer's product to the next one's, backwards along the first inputs."""
    makers = {output: node for node in model.graph.node for output in node.output}
    node, found = makers[second], []
    while True:
        node = makers[node.input[0]]
        if node.op_type == "Conv":
            assert node.input[1].startswith(first)
            return found[::-1]
        found.append(node.op_type)


@pytest.mark.parametrize("half", [False, True])
def test_a_layer_rounds_its_own_output_for_the_next(calibrated: Calibrated, half: bool) -> None:
    model = place_tensorrt(
        to_half(calibrated.model) if half else calibrated.model, calibrated, {x.name for x in calibrated.layers}
    )
    first, second = calibrated.layers[1], calibrated.layers[2]  # The two convolutions of the first block.
    assert calibrated.levels[second.input].shift  # A ReLU lies between them, and a shift.
    written = [node.output[0] for node in model.graph.node if node.output[0].endswith(".leaving")]
    assert f"{second.input}.leaving" in written
    products = {node.input[1]: node.output[0] for node in model.graph.node if node.op_type == "Conv"}
    path = between(model, first.name, products[f"{second.name}.kernel.back"])
    # The Add holds what the shift took away near the edge; no ReLU, no shift, and one scale for all such tensors.
    assert path == ["Add", "QuantizeLinear", "DequantizeLinear"]
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    scales = {float(constants[f"{name.removesuffix('.leaving')}.scale"]) for name in written}
    assert scales == {LEAVING_SCALE}


def test_it_computes_what_shift_and_activation_computed(
    calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = {layer.name for layer in calibrated.layers}
    model = place_tensorrt(calibrated.model, calibrated, every)
    monkeypatch.setattr("byolt_export.quantize.place_tensorrt._leaving", lambda *_: {})
    plain = place_tensorrt(calibrated.model, calibrated, every)
    assert len(plain.graph.node) > len(model.graph.node)
    errors = relative_l2(outputs(plain), outputs(model))
    assert np.median(errors) < 1e-3  # In a few images a value lies on the edge of a level and falls the other way.
    assert np.median(relative_l2(outputs(calibrated.model), outputs(plain))) > 5e-3


def test_no_scale_of_a_dead_channel_is_zero(tmp_path: Path) -> None:
    module = encoder().eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data[0] = 0  # Pruned: the folded kernel of the channel is all 0.
    export_onnx(module, tmp_path / "encoder.onnx", output_name="embedding", **HOW)
    dead = calibrate(onnx.load(tmp_path / "encoder.onnx"), images(64, seed=1))
    model = place_tensorrt(to_half(dead.model), dead, {layer.name for layer in dead.layers})
    scales = [numpy_helper.to_array(i) for i in model.graph.initializer if i.name.endswith(".scale")]
    assert all((scale > 0).all() for scale in scales)  # TensorRT's parser refuses 0.
    assert min(scale.min() for scale in scales) < 1e-6


def test_bounds_of_a_clip_may_be_left_out() -> None:
    constants = {"low": numpy_helper.from_array(np.float32(-1)), "high": numpy_helper.from_array(np.float32(6))}
    inputs = (["x", "low", "high"], ["x", "low"], ["x", "", "high"], ["x"])
    found = [activation_bounds(helper.make_node("Clip", names, ["y"]), constants) for names in inputs]
    assert found == [(-1, 6), (-1, np.inf), (-np.inf, 6), (-np.inf, np.inf)]
    assert activation_bounds(helper.make_node("Relu", ["x"], ["y"]), constants) == (0, np.inf)


def test_a_tensor_that_something_else_reads_keeps_its_value(calibrated: Calibrated) -> None:
    every = {layer.name for layer in calibrated.layers}
    second = calibrated.layers[2]
    model = place_tensorrt(calibrated.model, calibrated, every - {second.name})
    assert f"{second.input}.leaving" not in {node.output[0] for node in model.graph.node}
    assert relative_l2(outputs(calibrated.model), outputs(model)).mean() < 0.05
