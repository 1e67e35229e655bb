"""INT8 for TensorRT: Q/DQ on the inputs of layers, their kernels stored as int8, no zero points.

What is not INT8 has the type that it has in the graph.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from byolt_export.quantize.calibrate import Calibrated, RoundedLayer
from byolt_export.quantize.fragments import Fragment, rebuilt
from byolt_export.quantize.layers import Layer
from byolt_export.quantize.rounding import ActivationScaling, Reals


def place_tensorrt(model: Any, calibrated: Calibrated, names: Collection[str]) -> Any:
    """A copy of a graph with these layers in INT8, as TensorRT 10, 11 and TensorRT for RTX read it.

    Args:
        model: ``calibrated.model`` in fp16, in fp32, or a part of it.
        calibrated: How each tensor and kernel becomes int8.
        names: Of the layers.
    """
    layers = {layer.name: layer for layer in calibrated.layers_in(model) if layer.name in names}
    inputs = {layer.name: layer.input for layer in calibrated.layers}
    quantised: set[str] = set()

    def replace(node: Any, made: Fragment) -> bool:
        layer = layers.get(node.output[0])
        if layer is None:
            return False
        levels = calibrated.levels[inputs[layer.name]]
        if layer.input not in quantised:
            quantised.add(layer.input)
            _add_tensor(made, layer.input, levels, layer.kernel.dtype)
        _add_layer(made, layer, levels, calibrated.rounded[layer.name])
        return True

    return rebuilt(model, replace)


def _add_tensor(made: Fragment, name: str, levels: ActivationScaling, dtype: Any) -> None:
    """Shift, Q and DQ of a tensor."""
    last = name
    if levels.shift:
        last = made.add("Sub", [last, made.constant(f"{name}.shift", levels.shift, dtype)], f"{name}.shifted")
    scale = made.constant(f"{name}.scale", levels.scale, dtype)
    zero = made.constant(f"{name}.zero", 0, np.int8)
    last = made.add("QuantizeLinear", [last, scale, zero], f"{name}.int8")
    made.add("DequantizeLinear", [last, scale, zero], _back(name))


def _add_layer(made: Fragment, layer: Layer, levels: ActivationScaling, rounded: RoundedLayer) -> None:
    """The layer computed from an int8 kernel and the int8 of its input."""
    dtype, name, scales = layer.kernel.dtype, layer.name, rounded.scales.ravel()
    kernel = [
        made.constant(f"{name}.kernel", layer.from_matrices(rounded.whole), np.int8),
        made.constant(f"{name}.kernel.scale", scales, dtype),
        made.constant(f"{name}.kernel.zero", np.zeros(scales.size), np.int8),
    ]
    back = made.add("DequantizeLinear", kernel, f"{name}.kernel.back", axis=layer.output_axis)
    inputs = [_back(layer.input), back]
    shifted = (rounded.whole * rounded.scales[..., None]).reshape(scales.size, -1) * levels.shift
    how = layer.attributes
    if any(layer.pads) and levels.shift:
        made.add("Conv", inputs, f"{name}.product", **how)
        taken = made.constant(f"{name}.taken", _taken(layer, shifted, rounded.bias), dtype)
        made.add("Add", [f"{name}.product", taken], name)
        return
    bias = made.constant(f"{name}.bias", rounded.bias + shifted.sum(axis=-1), dtype)
    if layer.node.op_type == "MatMul":
        made.add("Add", [made.add("MatMul", inputs, f"{name}.product"), bias], name)
    else:
        made.add(layer.node.op_type, [*inputs, bias], name, **how)


def _taken(layer: Layer, shifted: Reals, bias: Reals) -> Reals:
    """Bias and what the shift took away, at each place (1, O, H, W).

    Zeros around the image are added after the shift: near the edge the kernel meets less of what was taken away.
    """
    height, width = layer.in_shape[2:]
    taps = shifted.reshape(len(bias), -1, *layer.kernel.shape[2:]).sum(axis=1).reshape(len(bias), -1)
    inside = layer.of_one_channel().windows(np.ones((1, 1, height, width), np.float32), 2**31)[0]  # (S, h * w)
    at_places: Reals = taps @ inside.T.astype(np.float64) + bias[:, None]
    return at_places.reshape(1, *layer.out_shape[1:])


def _back(name: str) -> str:
    """A tensor after int8."""
    return f"{name}.back"
