"""What INT8 wins of each layer's time on a CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.export.small import HOW, encoder, images

from byolt_export.onnx.export import export_onnx
from byolt_export.quantize import time_won
from byolt_export.quantize.calibrate import Calibrated, calibrate
from byolt_export.quantize.int8 import Int8
from byolt_export.runtime.onnx_profile import node_times_us


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("won") / "encoder.onnx"
    export_onnx(encoder().eval(), path, output_name="embedding", **HOW)
    return path


@pytest.fixture(scope="module")
def calibrated(path: Path) -> Calibrated:
    return calibrate(onnx.load(path), images(64, seed=1))


def is_product(operator: str) -> bool:
    return "Conv" in operator or "Gemm" in operator


def test_each_layers_time_is_counted_once_before_and_after(
    calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is told apart from its neighbours', and from the rounding and layouts between them."""
    runs: list[dict[tuple[str, str], float]] = []

    def told(model: bytes, feed: Mapping[str, Any]) -> dict[tuple[str, str], float]:
        times = node_times_us(model, feed)
        assert all(time_us > 0 for (_, operator), time_us in times.items() if is_product(operator))
        runs.append(times)
        number = len(runs)
        told = dict.fromkeys(times, 0.0)
        for name, operator in times:
            if is_product(operator):
                told[name, operator] = 10.0 if number == 1 else 1.0
            elif operator == "Gather":
                told[name, operator] = 2.0
        return told

    monkeypatch.setattr(time_won, "node_times_us", told)
    found = time_won.times_won_us(calibrated, images(8, seed=2))
    assert [won for won in found.values() if won != 9.0] == [7.0]  # The windows of one are gathered first.
    assert found.keys() == {layer.name for layer in calibrated.layers}
    before, after = ({operator for _, operator in times if is_product(operator)} for times in runs)
    assert before <= {"Conv", "FusedConv"}
    assert after == {"QLinearConv", "QGemm"}


def test_the_graphs_own_output_is_a_layers_like_any_other(tmp_path: Path) -> None:
    export_onnx(encoder(4).eval(), tmp_path / "classifier.onnx", output_name="logits", **HOW)
    calibrated = calibrate(onnx.load(tmp_path / "classifier.onnx"), images(64, seed=1))
    assert calibrated.layers[-1].name == "logits"
    assert time_won.times_won_us(calibrated, images(8)).keys() == {layer.name for layer in calibrated.layers}


def test_nothing_is_won_where_whole_numbers_take_longer(
    calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter((1.0, 2.0))

    def told(model: bytes, feed: Mapping[str, Any]) -> dict[tuple[str, str], float]:
        time_us = next(taken)
        return {node: time_us for node in node_times_us(model, feed) if is_product(node[1])}

    monkeypatch.setattr(time_won, "node_times_us", told)
    assert set(time_won.times_won_us(calibrated, images(8)).values()) == {0.0}


def test_for_a_cpu_time_is_spent_and_most_of_the_work_stays_int8(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    int8 = Int8.of(onnx.load(path), images(128, seed=1), "drawn")
    names = {layer.name for layer in int8.calibrated.layers}
    costly, *others = sorted(names, key=lambda name: int8.calibrated.share({name}))
    costs = {costly: 97.0} | dict.fromkeys(others, 3.0 / len(others))
    monkeypatch.setattr(Int8, "costs", lambda *_: costs)
    monkeypatch.setattr(Int8, "harms", lambda *_: dict.fromkeys(names, 1.0))
    _, some, least = int8._layers_at("cpu", names, (1.0, 0.95, 0.1))
    assert costly in some  # A twentieth of the time is all the others'; but of the work 60 % stay.
    assert some != names
    assert int8.calibrated.share(some) >= 0.6
    assert 0.1 <= int8.calibrated.share(least) < 0.2
    _, none = int8._layers_at("tensorrt", names, (1.0, 0.999))
    assert int8.calibrated.share(none) >= 0.999  # For TensorRT it is multiply-adds.


def test_the_costs_are_those_of_the_engine(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    int8 = Int8.of(onnx.load(path), images(128, seed=1), "drawn")
    layers = int8.calibrated.layers
    assert int8.costs("tensorrt") == {layer.name: layer.multiply_adds for layer in layers}
    measured = int8.costs("cpu")
    assert measured.keys() == {layer.name for layer in layers}
    assert min(measured.values()) >= 0
    won = {layer.name: 0.0 if k == 1 else 10.0 for k, layer in enumerate(layers)}
    monkeypatch.setattr("byolt_export.quantize.int8.times_won_us", lambda *_: won)
    assert int8.costs("cpu") == won | {layers[1].name: pytest.approx(0.1 * (len(layers) - 1))}
