"""INT8 for TensorRT: Q/DQ on the inputs of layers, their kernels stored as int8, no zero points.

What is not INT8 has the type that it has in the graph. Where a tensor goes from INT8 layers to INT8 layers alone, the
layer gives it as the rounding needs it: shifted, scaled, and cut by the rounding itself.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from byolt_export.quantize.calibrate import Calibrated, RoundedLayer
from byolt_export.quantize.fragments import Fragment, readers_of, rebuilt
from byolt_export.quantize.layers import Layer, activation_bounds, written_tensors
from byolt_export.quantize.rounding import Reals, storable

LEAVING_SCALE = 2.0**-4
"""Of every tensor that goes from one INT8 layer to others alone: the layer's kernel scales give it the scale it needs.

TensorRT for RTX compiles a tensor's scale and shift into the kernel that rounds it; layers that differ in nothing else
then share one kernel of some 220 kB (measured: 8 layers of their own scale 3.6 MB, of one scale 2.8 MB).
"""


def place_tensorrt(model: Any, calibrated: Calibrated, names: Collection[str]) -> Any:
    """A copy of a graph with these layers in INT8, as TensorRT 10, 11 and TensorRT for RTX read it.

    Args:
        model: ``calibrated.model`` in fp16, in fp32, or a part of it.
        calibrated: How each tensor and kernel becomes int8.
        names: Of the layers.
    """
    return rebuilt(model, _Placement(model, calibrated, names).replace)


class _Placement:
    """A graph on its way to INT8, node by node."""

    def __init__(self, model: Any, calibrated: Calibrated, names: Collection[str]) -> None:
        self.calibrated = calibrated
        self.layers = {layer.output: layer for layer in calibrated.layers_in(model) if layer.name in names}
        self.read = {layer.name: layer.input for layer in calibrated.layers}  # Before a cast to fp16.
        self.leaving = _leaving(model, calibrated, self.layers)
        self.quantised: set[str] = set()

    def replace(self, node: Any, made: Fragment) -> bool:
        """Add what takes the node's place; False where it stays as it is."""
        name = node.output[0]
        if name not in self.layers:
            return name in self.leaving.values()  # An activation that the rounding does too.
        layer = self.layers[name]
        if layer.input not in self.quantised:
            self._add_tensor(made, layer)
        self._add_layer(made, layer)
        return True

    def _add_tensor(self, made: Fragment, reader: Layer) -> None:
        """Shift, Q and DQ of the tensor that a layer reads."""
        name, dtype = reader.input, reader.kernel.dtype
        levels, last = self.calibrated.levels[self.read[reader.name]], name
        if levels.shift:
            last = made.add("Sub", [last, made.constant(f"{name}.shift", levels.shift, dtype)], f"{name}.shifted")
        self._add_rounding(made, last, name, levels.scale, dtype)

    def _add_rounding(self, made: Fragment, shifted: str, name: str, scale: float, dtype: Any) -> None:
        step, zero = made.constant(f"{name}.scale", scale, dtype), made.constant(f"{name}.zero", 0, np.int8)
        whole = made.add("QuantizeLinear", [shifted, step, zero], f"{name}.int8")
        made.add("DequantizeLinear", [whole, step, zero], _back(name))
        self.quantised.add(name)

    def _add_layer(self, made: Fragment, layer: Layer) -> None:
        """The layer computed from an int8 kernel and the int8 of its input."""
        rounded, levels = self.calibrated.rounded[layer.name], self.calibrated.levels[self.read[layer.name]]
        written = self.leaving.get(layer.name)
        scales, offset, output = rounded.scales.ravel(), _offset(layer, rounded, levels.shift), layer.output
        if layer.input in self.leaving.values():
            scales = scales * (levels.scale / LEAVING_SCALE)
        if written is not None:
            leaves, output = self.calibrated.levels[written], f"{written}.leaving"
            factor = LEAVING_SCALE / leaves.scale
            scales, offset = scales * factor, (offset - leaves.shift) * factor
        # What GPTQ rounded by is scaled once more: to 2^-11 of it in fp16, and never to 0, which TensorRT refuses.
        _add_product(made, layer, rounded.whole, storable(scales, layer.kernel.dtype), offset, output)
        if written is not None:
            self._add_rounding(made, output, written, LEAVING_SCALE, layer.kernel.dtype)


def _leaving(model: Any, calibrated: Calibrated, layers: Mapping[str, Layer]) -> dict[str, str]:
    """By INT8 layer, the tensor that it gives to INT8 layers alone, cut nowhere but where int8 ends."""
    readers = readers_of(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    constants = {constant.name: constant for constant in model.graph.initializer}
    leaving = {}
    for name, written in written_tensors(model, list(layers.values())).items():
        inputs = [(node.output[0], node.input[0]) for node in readers.get(written, [])]
        levels = calibrated.levels.get(written)
        if levels is None or not inputs or any(by not in layers or read != written for by, read in inputs):
            continue
        if written == name or levels.is_within(*activation_bounds(makers[written], constants)):
            leaving[name] = written
    return leaving


def _add_product(made: Fragment, layer: Layer, whole: Reals, scales: Reals, offset: Reals, output: str) -> None:
    """The product of int8 kernel and int8 input, and what is added to it: a value a channel, or one at each place."""
    dtype, name, how = layer.kernel.dtype, layer.name, layer.attributes
    kernel = [
        made.constant(f"{name}.kernel", layer.from_matrices(whole), np.int8),
        made.constant(f"{name}.kernel.scale", scales, dtype),
        made.constant(f"{name}.kernel.zero", np.zeros(scales.size), np.int8),
    ]
    inputs = [_back(layer.input), made.add("DequantizeLinear", kernel, f"{name}.kernel.back", axis=layer.output_axis)]
    if offset.ndim > 1:
        taken = made.constant(f"{name}.taken", offset, dtype)
        made.add("Add", [made.add("Conv", inputs, f"{name}.product", **how), taken], output)
        return
    bias = made.constant(f"{name}.bias", offset, dtype)
    if layer.is_matmul:
        made.add("Add", [made.add("MatMul", inputs, f"{name}.product"), bias], output)
    else:
        made.add(layer.node.op_type, [*inputs, bias], output, **how)


def _offset(layer: Layer, rounded: RoundedLayer, shift: float) -> Reals:
    """Bias and what the input's shift took away: (O,), or at each place (1, O, H, W).

    Zeros around the image are added after the shift: near the edge the kernel meets less of what was taken away.
    """
    shifted = (rounded.whole * rounded.scales[..., None]).reshape(rounded.scales.size, -1) * shift
    if not any(layer.pads) or not shift:
        whole_bias: Reals = rounded.bias + shifted.sum(axis=-1)
        return whole_bias
    height, width = layer.in_shape[2:]
    taps = shifted.reshape(len(shifted), -1, *layer.kernel.shape[2:]).sum(axis=1).reshape(len(shifted), -1)
    inside = layer.of_one_channel().windows(np.ones((1, 1, height, width), np.float32), 2**31)[0]  # (S, h * w)
    at_places: Reals = taps @ inside.T.astype(np.float64) + rounded.bias[:, None]
    return at_places.reshape(1, *layer.out_shape[1:])


def _back(name: str) -> str:
    """A tensor after int8."""
    return f"{name}.back"
