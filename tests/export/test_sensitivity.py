from collections import Counter

import numpy as np
import onnx
import pytest
from tests.export.small import HOW, encoder, images

from byolt_export.onnx.export import export_onnx
from byolt_export.quantize.activation_statistics import input_batches, run_model
from byolt_export.quantize.calibrate import calibrate
from byolt_export.quantize.int8 import Place
from byolt_export.quantize.layers import Layer
from byolt_export.quantize.place_cpu import place_cpu
from byolt_export.quantize.place_tensorrt import place_tensorrt
from byolt_export.quantize.sensitivity import most_sensitive, output_errors


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """Of a network with residual branches, whose tensors are read by more than one node."""
    path = tmp_path_factory.mktemp("sensitivity") / "encoder.onnx"
    export_onnx(encoder().eval(), path, output_name="embedding", **HOW)
    return onnx.version_converter.convert_version(onnx.load(path), 19)


@pytest.mark.parametrize("place", [place_tensorrt, place_cpu])
def test_what_follows_a_layer_gives_what_the_whole_model_gives(model: onnx.ModelProto, place: Place) -> None:
    shown = images(40)
    calibrated = calibrate(model, shown)
    model, layers = calibrated.model, calibrated.layers

    def outputs(of: onnx.ModelProto) -> np.ndarray:
        return np.concatenate(
            [values["embedding"] for values in run_model(of.SerializeToString(), input_batches(of, shown))]
        )

    whole = {
        layer.name: np.median(((outputs(place(model, calibrated, {layer.name})) - outputs(model)) ** 2).sum(axis=1))
        for layer in layers
    }
    sizes: Counter[str] = Counter()

    def in_int8(rest: onnx.ModelProto, layer: Layer) -> onnx.ModelProto:
        sizes[layer.name] = len(rest.graph.node)
        return place(rest, calibrated, {layer.name})

    found = output_errors(model, layers, in_int8, shown)
    assert found == pytest.approx(whole, rel=1e-3)
    assert len({round(value, 9) for value in whole.values()}) == len(layers)
    assert sizes[layers[-1].name] < len(model.graph.node) / 4  # And not by running all of it.


def test_layers_of_most_damage_for_their_cost_are_kept_first() -> None:
    layers = [
        Layer(onnx.helper.make_node("Gemm", ["x", "w"], [name]), np.zeros((1, 1)), None, multiply_adds, ())
        for name, multiply_adds in {"a": 10, "b": 40, "c": 5, "d": 30}.items()
    ]
    damage = {"a": 1.0, "b": 8.0, "c": 0.4, "d": 1.5}  # Per multiply-add: b 0.2, a 0.1, c 0.08, d 0.05.
    work = {layer.name: float(layer.multiply_adds) for layer in layers}

    def kept(costs: dict[str, float], most_cost: float, most_multiply_adds: float = np.inf) -> set[str]:
        return most_sensitive(damage, layers, costs, most_cost=most_cost, most_multiply_adds=most_multiply_adds)

    assert kept(work, 60) == kept(work, np.inf, 60) == {"a", "b", "c"}
    assert kept(work, 39) == {"a", "c"}
    assert kept(work, 4) == set()
    time_won = {"a": 1.0, "b": 20.0, "c": 4.0, "d": 0.0}  # For its cost: d without end, a 1, b 0.4, c 0.1.
    assert kept(time_won, 0) == {"d"}
    assert kept(time_won, 21) == {"a", "b", "d"}
    assert kept(time_won, 21, 50) == {"a", "d", "c"}
    assert kept(time_won, 21, 29) == {"a", "c"}
