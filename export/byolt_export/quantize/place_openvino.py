"""INT8 for OpenVINO on a CPU: uint8 tensors with zero points and Q/DQ on the inputs of layers alone.

OpenVINO's low-precision passes ask of a layer that its input and its kernel are quantised, and fuse the rounding of the
next layer's input into it: what is read by no layer in INT8 needs no rounding, and the rest is fp32.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from byolt_export.quantize.calibrate import Calibrated, RoundedLayer
from byolt_export.quantize.fragments import Fragment, rebuilt
from byolt_export.quantize.layers import Layer
from byolt_export.quantize.place_cpu import restored_kernel, restored_rows, scale_and_zero


def place_openvino(model: Any, calibrated: Calibrated, names: Collection[str]) -> Any:
    """A copy of a graph with these layers in INT8, as OpenVINO computes it in whole numbers on a CPU.

    Args:
        model: ``calibrated.model``, or a part of it.
        calibrated: How each tensor and kernel becomes int8.
        names: Of the layers.
    """
    layers = {layer.name: layer for layer in calibrated.layers_in(model) if layer.name in names}
    quantised: set[str] = set()

    def replace(node: Any, made: Fragment) -> bool:
        layer = layers.get(node.output[0])
        if layer is None:
            return False
        if layer.input not in quantised:
            quantised.add(layer.input)
            constants = scale_and_zero(made, layer.input, calibrated.levels[layer.input])
            whole = made.add("QuantizeLinear", [layer.input, *constants], f"{layer.input}.uint8")
            made.add("DequantizeLinear", [whole, *constants], f"{layer.input}.back")
        _add_layer(made, layer, calibrated)
        return True

    return rebuilt(model, replace)


def _add_layer(made: Fragment, layer: Layer, calibrated: Calibrated) -> None:
    """The layer computed from an int8 kernel and the uint8 of its input, and its bias in fp32."""
    rounded, name = calibrated.rounded[layer.name], layer.name
    bias = made.constant(f"{name}.bias", rounded.bias, np.float32)
    if layer.is_pointwise and tuple(layer.in_shape[2:]) == (1, 1):
        _add_product(made, layer, rounded, bias)
        return
    kernel = restored_kernel(made, name, layer.from_matrices(rounded.whole), rounded, layer.output_axis)
    inputs = [f"{layer.input}.back", kernel]
    if layer.is_matmul:
        made.add("Add", [made.add("MatMul", inputs, f"{name}.product"), bias], name)
    else:
        made.add(layer.node.op_type, [*inputs, bias], name, **layer.attributes)


def _add_product(made: Fragment, layer: Layer, rounded: RoundedLayer, bias: str) -> None:
    """A convolution of one pixel an image, as in a squeeze-and-excitation, as a product of matrices (N, I) (I, O).

    As a convolution OpenVINO 2026.4.1 computes it wrong at batch 1, and there alone: outputs of a RegNetY-004 were off
    by 11 % (relative L2, all images).
    """
    name = layer.name
    row = made.constant(f"{name}.as_row", [0, -1], np.int64)
    pixel = made.constant(f"{name}.as_pixel", [0, -1, 1, 1], np.int64)
    rows = made.add("Reshape", [f"{layer.input}.back", row], f"{name}.row")
    product = made.add("MatMul", [rows, restored_rows(made, layer, rounded)], f"{name}.product")
    made.add("Reshape", [made.add("Add", [product, bias], f"{name}.sum"), pixel], name)
