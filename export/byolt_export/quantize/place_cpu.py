"""INT8 for ONNX Runtime on a CPU: uint8 tensors with zero points, Q/DQ behind every layer as well.

ONNX Runtime takes an integer convolution only where input, kernel, bias and output are all quantised; of a layer with
Q/DQ on its input alone it restores the kernel on every call and multiplies in fp32. What is not INT8 here is fp32.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from byolt_export.quantize.calibrate import Calibrated, RoundedLayer
from byolt_export.quantize.exact_pixels import INSIDE, MIDDLE
from byolt_export.quantize.fragments import Fragment, readers_of, rebuilt
from byolt_export.quantize.layers import Layer, activation_bounds, written_tensors
from byolt_export.quantize.multiply_adds import attributes
from byolt_export.quantize.rounding import ActivationScaling, Reals

_PADDED, _WINDOWS, _PRODUCT, _PIXELS_LAST = ".padded", ".windows", ".product", ".pixels_last"
PRODUCT_PARTS = (_PADDED, _WINDOWS, _PRODUCT, _PIXELS_LAST)
"""Endings of the tensors on the way through a product of matrices to what the layer gives."""

_GATHERED = 32 * 32  # Channels by outputs: of 32 by 32 a product still takes less time than fp32, of 16 by 16 more.


def place_cpu(model: Any, calibrated: Calibrated, names: Collection[str], *, unrounded: bool = False) -> Any:
    """A copy of a graph with these layers in INT8, computed in whole numbers by a CPU's integer kernels.

    What a product of matrices gives stays fp32, since its integer kernel restores it. A convolution of single pixels
    that no layer in INT8 reads is written as one, so that nothing is rounded before the sum that it goes into. Sums of
    branches stay fp32 too, of the branch as int8 left it and of the other as it is: a stream that is rounded after each
    of its sums loses more than the sums cost.

    Args:
        model: ``calibrated.model``, or a part of it.
        calibrated: How each tensor and kernel becomes int8.
        names: Of the layers.
        unrounded: Write convolutions of larger windows that no layer in INT8 reads as products too, of the windows side
            by side: half the error in a ResNet, at a tenth of its speed.
    """
    return rebuilt(model, _Placement(model, calibrated, names, unrounded=unrounded).replace)


class _Placement:
    """A graph on its way to INT8, node by node."""

    def __init__(self, model: Any, calibrated: Calibrated, names: Collection[str], *, unrounded: bool) -> None:
        layers = calibrated.layers_in(model)
        self.calibrated = calibrated
        self.layers = {layer.name: layer for layer in layers if layer.name in names}
        self.others = {layer.name: layer for layer in layers if layer.name not in names}
        self.constants = {constant.name: constant for constant in model.graph.initializer}
        written = written_tensors(model, [layer for layer in self.layers.values() if not layer.is_matmul])
        self.as_products = self._unread(written, unrounded)
        self.written = {name: tensor for name, tensor in written.items() if name not in self.as_products}
        self.adders = dict(self._adders(model))
        self.added = {product for product, _ in self.adders.values()}
        self.makers = {output: node for node in model.graph.node for output in node.output}
        self.inputs = model.graph.input
        self.back: dict[str, str] = {}  # By tensor, its name after uint8 and back.
        self.rounded = set(self.written.values())  # Tensors that exist in uint8 alone.
        self.dropped: set[str] = set()

    def _unread(self, written: Mapping[str, str], windows: bool) -> set[str]:
        """Names of the convolutions of single pixels, or of ``windows`` too, that no layer in INT8 reads, behind their
        activation either.
        """
        read = {layer.input for layer in self.layers.values()}
        fit = (name for name, layer in self.layers.items() if self._is_product(layer, windows))
        return {name for name in fit if read.isdisjoint((name, written.get(name, name)))}

    def _is_product(self, layer: Layer, windows: bool) -> bool:
        """Of one group, and of an image whose sides are known; where a few channels meet a few, gathering what windows
        meet takes longer than the products.
        """
        if layer.node.op_type != "Conv" or layer.groups > 1 or not all((*layer.in_shape, *layer.out_shape)):
            return False
        outputs, channels, *sides = layer.kernel.shape
        return layer.is_pointwise or (outputs * channels >= _GATHERED and (windows or sides == [1, 1]))

    def _adders(self, model: Any) -> Iterator[tuple[str, tuple[str, str]]]:
        """By what it gives, each node that alone reads a product of matrices and adds a constant: the names of both."""
        readers, outputs = readers_of(model), {output.name for output in model.graph.output}
        for name, layer in self.layers.items():
            after = readers.get(name, [])
            if layer.is_matmul and name not in outputs and [node.op_type for node in after] == ["Add"]:
                (added,) = (other for other in after[0].input if other != name)
                if added in self.constants:
                    yield after[0].output[0], (name, added)

    def replace(self, node: Any, made: Fragment) -> bool:
        """Add what takes the node's place; False where it stays as it is."""
        name = node.output[0]
        if name in self.dropped:
            return True
        if name in self.as_products:
            self._add_product(made, self.layers[name])
            return True
        if name in self.layers:
            self._add_layer(made, self.layers[name])
            return True
        if name in self.adders:
            self._add_sum(made, name, *self.adders[name])
            return True
        if not self.rounded.intersection(node.input):
            return False
        if node.op_type == "MaxPool" and len(node.output) == 1:
            self._add_pooling(made, node)
            return True
        copy = type(node)()
        copy.CopyFrom(node)
        for place, read in enumerate(node.input):
            if read in self.rounded:
                kept = place == 0 and name in self.others
                copy.input[place] = self._back_by_channel(made, read) if kept else self._back(made, read)
        made.nodes.append(copy)
        return True

    def _back(self, made: Fragment, name: str) -> str:
        """A tensor after uint8 and back, which is made where there is none yet."""
        if name not in self.back:
            levels = self.calibrated.levels[name]
            if name == self.calibrated.pixels:
                self._add_pixels(made, name)
            else:
                made.add("QuantizeLinear", [name, *scale_and_zero(made, name, levels)], f"{name}.uint8")
            made.add("DequantizeLinear", [f"{name}.uint8", *scale_and_zero(made, name, levels)], f"{name}.back")
            self.back[name] = f"{name}.back"
        return self.back[name]

    def _add_pooling(self, made: Fragment, node: Any) -> None:
        """The largest of levels is the level of the largest: no value is restored for it."""
        (read,), (name,) = node.input, node.output
        self._back(made, read)
        made.add("MaxPool", [f"{read}.uint8"], f"{name}.uint8", **attributes(node))
        constants = scale_and_zero(made, read, self.calibrated.levels[read])
        self.back[name] = made.add("DequantizeLinear", [f"{name}.uint8", *constants], f"{name}.back")
        self.rounded.add(name)

    def _add_pixels(self, made: Fragment, name: str) -> None:
        """The images are bytes already: a byte p stands for p - 128, and 255 for the channel that is 127 inside."""
        assert MIDDLE == 128
        assert INSIDE == 127
        source = self._bytes_before(name)
        if source is None:  # Frames were resized before: the resized pixels are rounded to whole grey levels.
            made.add(
                "QuantizeLinear", [name, *scale_and_zero(made, name, self.calibrated.levels[name])], f"{name}.uint8"
            )
            return
        height, width, channels = self._shape_of(source)
        rows = made.constant(f"{name}.as_rows", [0, channels * height * width], np.int64)
        pads = made.constant(f"{name}.of_bytes", [0, 0, 0, height * width], np.int64)
        inside = made.constant(f"{name}.byte_inside", 255, np.uint8)
        planes = made.constant(f"{name}.as_planes", [0, channels + 1, height, width], np.int64)
        # As one row: ONNX Runtime moves a transposition behind a Pad of four axes, and then adds one value behind each
        # pixel, which takes 5 times as long, a tenth of a small encoder's whole time.
        made.add("Transpose", [source], f"{name}.bytes", perm=[0, 3, 1, 2])
        made.add("Reshape", [f"{name}.bytes", rows], f"{name}.row")
        made.add("Pad", [f"{name}.row", pads, inside], f"{name}.longer")
        made.add("Reshape", [f"{name}.longer", planes], f"{name}.uint8")

    def _bytes_before(self, name: str) -> str | None:
        """The images, where nothing but a cast and a transposition lies between them and the pixels, and their size is
        known.
        """
        chain = []
        while name in self.makers:
            node = self.makers[name]
            chain.append(node.op_type)
            name = node.input[0]
        return name if chain == ["Pad", "Sub", "Transpose", "Cast"] and self._shape_of(name) else None

    def _shape_of(self, images: str) -> list[int]:
        """Height, width, channels of an input; nothing where one is not known."""
        (shape,) = (value.type.tensor_type.shape for value in self.inputs if value.name == images)
        sides = [dim.dim_value for dim in shape.dim][1:]
        return sides if all(sides) else []

    def _back_by_channel(self, made: Fragment, name: str) -> str:
        """The same for a layer that stays fp32, with its scale written once a channel.

        ONNX Runtime rounds the fp32 kernel of a convolution between a DequantizeLinear of one scale and a
        QuantizeLinear to int8, with one scale for all of it and without a word (`WeightBiasQuantization`); behind one
        scale a channel it does not.
        """
        levels, back = self.calibrated.levels[name], f"{name}.back_by_channel"
        if back not in self.back:
            self._back(made, name)
            reader = next(layer for layer in self.others.values() if layer.input == name)
            channels = reader.kernel.shape[0 if reader.is_transposed else 1] * (
                1 if reader.is_transposed else reader.groups
            )
            scale = made.constant(f"{name}.scales", np.full(channels, levels.scale), np.float32)
            zero = made.constant(f"{name}.zeros", np.full(channels, levels.zero_point), np.uint8)
            axis = 1 if reader.is_conv else -1
            self.back[back] = made.add("DequantizeLinear", [f"{name}.uint8", scale, zero], back, axis=axis)
        return self.back[back]

    def _add_layer(self, made: Fragment, layer: Layer) -> None:
        """The layer with an int8 kernel and an int32 bias, its activation left to the rounding of its output."""
        levels, rounded = self.calibrated.levels[layer.input], self.calibrated.rounded[layer.name]
        name, written = layer.name, self.written.get(layer.name)
        fused = (
            written is not None
            and written != name
            and self.calibrated.levels[written].is_within(*activation_bounds(self.makers[written], self.constants))
        )
        output = written if fused and written is not None else name
        kernel = restored_kernel(made, name, layer.from_matrices(rounded.whole), rounded, layer.output_axis)
        inputs = [self._back(made, layer.input), kernel]
        if name in self.added:
            made.add("MatMul", inputs, name)
        elif layer.is_matmul:
            bias = made.constant(f"{name}.sum", rounded.bias, np.float32)
            made.add("Add", [made.add("MatMul", inputs, f"{name}{_PRODUCT}"), bias], name)
        else:
            inputs.append(_restored_bias(made, name, levels, rounded))
            made.add(layer.node.op_type, inputs, output, **layer.attributes)
        if fused and written is not None:
            self.dropped.add(written)

    def _add_product(self, made: Fragment, layer: Layer) -> None:
        """A convolution as a product of matrices (N Ho Wo, h w I) (h w I, O): a row for each window."""
        levels, rounded = self.calibrated.levels[layer.input], self.calibrated.rounded[layer.name]
        name, (_, outputs, height, width) = layer.name, layer.out_shape
        self._back(made, layer.input)
        pixels = made.add("Transpose", [f"{layer.input}.uint8"], f"{name}.pixels", perm=[0, 2, 3, 1])
        if not layer.is_pointwise:
            pixels = self._add_windows(made, layer, pixels)
        rows = made.constant(f"{name}.as_rows", [-1, layer.kernel[0].size], np.int64)
        planes = made.constant(f"{name}.as_planes", [-1, height, width, outputs], np.int64)
        made.add("Reshape", [pixels, rows], f"{name}.rows")
        constants = scale_and_zero(made, layer.input, levels)
        inputs = [
            made.add("DequantizeLinear", [f"{name}.rows", *constants], f"{name}.rows.back"),
            restored_rows(made, layer, rounded),
            _restored_bias(made, name, levels, rounded),
        ]
        made.add("Reshape", [made.add("Gemm", inputs, f"{name}{_PRODUCT}"), planes], f"{name}{_PIXELS_LAST}")
        made.add("Transpose", [f"{name}{_PIXELS_LAST}"], name, perm=[0, 3, 1, 2])

    def _add_windows(self, made: Fragment, layer: Layer, pixels: str) -> str:
        """The pixels (N, H, W, I) that each window meets, (N, Ho Wo h w, I); around the image one that stands for 0."""
        name, (_, channels, height, width) = layer.name, layer.in_shape
        zero = scale_and_zero(made, layer.input, self.calibrated.levels[layer.input])[1]
        rows = made.constant(f"{name}.as_pixels", [0, height * width, channels], np.int64)
        pads = made.constant(f"{name}.around", [0, 0, 0, 0, 1, 0], np.int64)
        met = made.constant(f"{name}.met", layer.pixels_met(), np.int32)
        made.add("Pad", [made.add("Reshape", [pixels, rows], f"{name}.in_a_row"), pads, zero], f"{name}{_PADDED}")
        return made.add("Gather", [f"{name}{_PADDED}", met], f"{name}{_WINDOWS}", axis=1)

    def _add_sum(self, made: Fragment, name: str, product: str, added: str) -> None:
        """What the encoder adds to a product of matrices, and the bias of its rounding, as one constant."""
        from onnx import numpy_helper

        both = numpy_helper.to_array(self.constants[added]) + self.calibrated.rounded[product].bias
        made.add("Add", [product, made.constant(f"{product}.sum", both, np.float32)], name)


def scale_and_zero(made: Fragment, name: str, levels: ActivationScaling) -> list[str]:
    """Constants of a tensor's rounding to uint8."""
    scale = made.constant(f"{name}.scale", levels.scale, np.float32)
    return [scale, made.constant(f"{name}.zero", levels.zero_point, np.uint8)]


def restored_kernel(made: Fragment, name: str, whole: Reals, rounded: RoundedLayer, axis: int) -> str:
    """The kernel out of int8, its output channels along an axis."""
    scales = rounded.scales.ravel()
    kernel = [
        made.constant(f"{name}.kernel", whole, np.int8),
        made.constant(f"{name}.kernel.scale", scales, np.float32),
        made.constant(f"{name}.kernel.zero", np.zeros(scales.size), np.int8),
    ]
    return made.add("DequantizeLinear", kernel, f"{name}.kernel.back", axis=axis)


def restored_rows(made: Fragment, layer: Layer, rounded: RoundedLayer) -> str:
    """The kernel of a convolution out of int8 as a matrix (h w I, O), for windows of pixels, the channel last."""
    rows = layer.from_matrices(rounded.whole).transpose(2, 3, 1, 0).reshape(-1, layer.outputs)
    return restored_kernel(made, layer.name, rows, rounded, axis=1)


def _restored_bias(made: Fragment, name: str, levels: ActivationScaling, rounded: RoundedLayer) -> str:
    """The bias out of int32, in levels of the sums that it is added to."""
    scales = rounded.scales.ravel()
    step = levels.scale * scales
    whole = np.clip(np.round(rounded.bias / step), -(2**31), 2**31 - 1)
    bias = [
        made.constant(f"{name}.bias", whole, np.int32),
        made.constant(f"{name}.bias.scale", step, np.float32),
        made.constant(f"{name}.bias.zero", np.zeros(scales.size), np.int32),
    ]
    return made.add("DequantizeLinear", bias, f"{name}.bias.back", axis=0)
