"""How much of an encoder becomes fp16: what overflows stays fp32, and the largest share that keeps the neighbours."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from tests.export.small import HOW, build, encoder, images
from torch import Tensor, nn

from byolt_export.bundle.folder import read_manifest
from byolt_export.onnx.export import export_onnx
from byolt_export.onnx.half_precision import to_half
from byolt_export.proof.measures import neighbour_overlap
from byolt_export.quantize.activation_statistics import outputs_of
from byolt_export.quantize.fp16 import Fp16
from byolt_export.quantize.multiply_adds import precision_shares

ENOUGH = "byolt_export.quantize.deciding.enough"


def half(model: Any, full: Any) -> Any:
    return to_half(model, full=full)


def kinds(model: Any) -> dict[str, int]:
    """By convolution, in order, the type of its kernel."""
    types = {constant.name: constant.data_type for constant in model.graph.initializer}
    return {node.name: types[node.input[1]] for node in model.graph.node if node.op_type == "Conv"}


class Hot(nn.Module):
    """What its second convolution gives goes beyond fp16's 65,504, and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu() * 1e5).relu() * 1e-5
        return self.third(x).mean((2, 3))  # type: ignore[no-any-return]


def test_a_tensor_beyond_the_range_of_fp16_stays_fp32(tmp_path: Path) -> None:
    lines: list[str] = []
    given = {"gallery": images(60, seed=2), "on_log": lines.append}
    unfitted = build(tmp_path / "unfitted", Hot(), precisions=("fp16",), **given)
    assert unfitted.verdict == "failed"  # Without calibration images nothing is found out.
    report = build(tmp_path / "bundle", Hot(), precisions=("fp16",), calibration=images(40, seed=1), **given)
    assert report.verdict == "passed"
    (entry,) = read_manifest(report.path).files
    assert entry.shares is not None
    assert entry.shares["fp32"] == pytest.approx(1 - entry.shares["fp16"])
    assert 0 < entry.shares["fp32"] < 0.4
    assert any(line.endswith("tensors stay fp32, they come near 65,504, where it ends") for line in lines)
    of_a_half = onnx.load(report.path / entry.name)
    assert list(kinds(of_a_half).values()) == [TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.FLOAT16]


def test_the_range_is_half_of_what_fp16_holds(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self, largest: float) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1, bias=False)
            nn.init.zeros_(self.conv.weight)
            self.conv.bias = nn.Parameter(self.conv.weight.new_full((4,), largest))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).relu().mean((2, 3)) / 1e4  # type: ignore[no-any-return]

    def beyond(largest: float) -> set[str]:
        path = tmp_path / "scaled.onnx"
        export_onnx(Scaled(largest).eval(), path, output_name="embedding", **HOW)
        return Fp16(onnx.load(path), half, images(40), 0).beyond_range

    assert beyond(32_700) == set()
    found = beyond(-32_800)  # Below zero too; the ReLU's is 0.
    assert len(found) == 1
    assert "conv" in next(iter(found))


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("fp16") / "encoder.onnx"
    export_onnx(encoder().eval(), path, output_name="embedding", **HOW)
    return onnx.load(path)


def test_the_largest_share_that_keeps_enough_is_taken(fp32: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    some = images(400, seed=3)
    lines: list[str] = []
    whole = Fp16(fp32, half, some, 400, lines.append)

    def kept(model: Any) -> float:
        found = neighbour_overlap(outputs_of(fp32, some), outputs_of(model, some), 1)
        assert found is not None
        return found

    def distance(model: Any) -> float:
        return float(np.square(outputs_of(fp32, some) - outputs_of(model, some)).sum())

    monkeypatch.setattr(ENOUGH, lambda *_, **_how: 0.5)
    plain = whole.fitted()
    assert plain == to_half(fp32)
    assert precision_shares(plain) == {"fp16": 1.0}
    monkeypatch.setattr(ENOUGH, lambda *_, **_how: 1.1)
    least = whole.fitted()
    assert lines[-1] == "fp16: no share keeps enough"
    shares = precision_shares(least)
    assert shares["fp16"] >= 0.5
    assert shares["fp32"] > 0.1
    assert distance(least) < 0.5 * distance(plain)
    assert kept(least) >= kept(plain)
    asked: list[int] = []

    def third_time(*_: object, **_how: object) -> float:
        asked.append(1)
        return 1.1 if len(asked) < 3 else 0.0

    monkeypatch.setattr(ENOUGH, third_time)
    between = precision_shares(whole.fitted())["fp16"]
    assert shares["fp16"] < between < 1
    monkeypatch.setattr(ENOUGH, lambda *_, **_how: 1.1)
    assert Fp16(fp32, half, some[:127], 400).fitted() == plain  # So few tell nothing.


def test_the_layers_of_most_harm_for_their_work_stay_fp32(fp32: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Fp16(fp32, half, images(100, seed=3), 100)
    kernel = {layer.name: layer.node.input[1] for layer in whole.layers}
    every = sum(layer.multiply_adds for layer in whole.layers)
    spoilt = next(layer for layer in whole.layers if 0.05 < layer.multiply_adds / every < 0.2)
    monkeypatch.setitem(whole.__dict__, "harms", dict.fromkeys(kernel, 0.0) | {spoilt.name: 1.0})
    kept = [kernel[spoilt.name] in full for full, _ in whole._shares()]
    assert not kept[1]  # There is no room for it.
    assert kept[-1]
    assert kept == sorted(kept)


def test_each_layer_is_judged_alone(fp32: Any) -> None:
    some = images(40, seed=3)
    harms = Fp16(fp32, half, some, 40).harms
    kernels = {node.output[0]: node.input[1] for node in fp32.graph.node if node.output[0] in harms}
    reference = outputs_of(fp32, some)
    for name in list(harms)[1:4]:
        alone = to_half(fp32, full=set(kernels.values()) - {kernels[name]})
        assert precision_shares(alone)["fp16"] < 0.5
        moved = np.square(outputs_of(alone, some) - reference).sum(axis=1)
        assert harms[name] == pytest.approx(float(np.median(moved)), rel=0.3)


def test_what_reads_or_gives_a_named_tensor_stays_fp32(fp32: Any) -> None:
    convolutions = [node for node in fp32.graph.node if node.op_type == "Conv"]
    second = convolutions[1]
    of_a_half = to_half(fp32, full={second.output[0]})
    found = kinds(of_a_half)
    assert found[second.name] == TensorProto.FLOAT
    assert found[convolutions[0].name] == TensorProto.FLOAT16
    casts = {node.input[0] for node in of_a_half.graph.node if node.op_type == "Cast"}
    assert second.output[0] not in casts  # Its reader, an activation, computes in fp32 as well.


def test_only_the_layer_that_sees_the_image_keeps_its_windows_sums(fp32: Any) -> None:
    first, second = [node for node in fp32.graph.node if node.op_type == "Conv"][:2]
    values = {constant.name: numpy_helper.to_array(constant) for constant in fp32.graph.initializer}
    of_a_half = to_half(fp32, full={first.input[1]})
    made = {constant.name: numpy_helper.to_array(constant) for constant in of_a_half.graph.initializer}
    kernel = second.input[1]
    np.testing.assert_array_equal(made[f"{kernel}_fp16"], values[kernel].astype(np.float16))
