"""Layers with a constant kernel in an ONNX graph - Conv, ConvTranspose, Gemm, MatMul - as products of matrices.

Axes: B images, C channels, G groups of a convolution, O outputs of a group, K inputs of one output (C / G channels by
the taps of the window, the channel first), S places where the kernel is applied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt_export.quantize.fragments import readers_of
from byolt_export.quantize.multiply_adds import attributes, infer, multiply_adds

Array = npt.NDArray[Any]

_ACTIVATIONS = ("Relu", "Clip")
_SATURATED = 8.0
"""Beyond it a sigmoid is 0 or 1 within 3e-4."""


@dataclass(frozen=True)
class Layer:
    """One node of the graph, and its kernel as the file holds it."""

    node: Any
    kernel: Array
    stored_bias: Array | None
    multiply_adds: int
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...] = ()
    known_as: str = ""
    """Its name in the graph in fp32; in fp16 an output has another name, before it is cast."""

    @property
    def name(self) -> str:
        """The tensor that the layer gives in fp32, which is what PyTorch's trace calls the layer too."""
        return self.known_as or self.output

    @property
    def output(self) -> str:
        """The tensor that the layer gives."""
        return str(self.node.output[0])

    @property
    def input(self) -> str:
        """The tensor that the layer reads."""
        return str(self.node.input[0])

    @property
    def outputs(self) -> int:
        """Output channels of all groups."""
        return int(self.kernel.shape[self.output_axis])

    @property
    def is_conv(self) -> bool:
        """A convolution, with the channels on axis 1; else they are on the last axis."""
        return self.node.op_type in ("Conv", "ConvTranspose")

    @property
    def is_transposed(self) -> bool:
        """A convolution of the input with ``stride - 1`` zeros after each pixel, its kernel turned around."""
        return bool(self.node.op_type == "ConvTranspose")

    @property
    def is_pointwise(self) -> bool:
        """A convolution that makes each pixel of one pixel, of one group."""
        how = self.attributes
        moves = [*self.pads, *(stride - 1 for stride in how.get("strides", [1, 1]))]
        return self.node.op_type == "Conv" and self.kernel.shape[2:] == (1, 1) and self.groups == 1 and not any(moves)

    @property
    def is_matmul(self) -> bool:
        """A product of matrices that has no bias of its own."""
        return bool(self.node.op_type == "MatMul")

    @property
    def attributes(self) -> dict[str, Any]:
        """The node's attributes as Python values."""
        return attributes(self.node)

    @property
    def groups(self) -> int:
        """Groups of a convolution, else 1."""
        return int(self.attributes.get("group", 1))

    @property
    def pads(self) -> list[int]:
        """Zeros around the image: top, left, bottom, right; none of a product of matrices."""
        return list(self.attributes.get("pads", [0, 0, 0, 0])) if self.is_conv else [0, 0, 0, 0]

    @property
    def output_axis(self) -> int:
        """Axis of the kernel that counts the outputs."""
        return 0 if self.node.op_type == "Conv" or self.attributes.get("transB") else 1

    def bias(self) -> npt.NDArray[np.float64]:
        """What is added to the outputs, one value an output channel."""
        stored = 0.0 if self.stored_bias is None else self.stored_bias.astype(np.float64).ravel()
        return stored + np.zeros(self.outputs)

    def as_matrices(self) -> npt.NDArray[np.float64]:
        """The kernel (G, O, K)."""
        kernel = self.kernel if self.output_axis == 0 else self.kernel.swapaxes(0, 1)
        kernel = kernel[..., ::-1, ::-1] if self.is_transposed else kernel
        return kernel.reshape(self.groups, len(kernel) // self.groups, -1).astype(np.float64)

    def from_matrices(self, matrices: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Matrices (G, O, K) in the shape of the kernel."""
        if self.output_axis == 0:
            return matrices.reshape(self.kernel.shape)
        if self.is_transposed:
            into, out, height, width = self.kernel.shape
            return matrices.reshape(out, into, height, width).swapaxes(0, 1)[..., ::-1, ::-1]
        return matrices.reshape(self.kernel.shape[::-1]).T

    def by_input(self, channels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Values of the channels (C,) of the layer's input as those of a kernel's inputs (G, K)."""
        by_group = channels.astype(np.float64).reshape(self.groups, -1)
        taps = self.kernel.size // self.outputs // by_group.shape[1]
        return np.repeat(by_group, taps, axis=1)

    def of_one_channel(self) -> "Layer":
        """A convolution with the same window, from one channel to one."""
        node = type(self.node)()
        node.CopyFrom(self.node)
        kept = [attribute for attribute in self.node.attribute if attribute.name != "group"]
        del node.attribute[:]
        node.attribute.extend(kept)
        kernel = np.ones((1, 1, *self.kernel.shape[2:]), self.kernel.dtype)
        return Layer(node, kernel, None, 1, (1, 1, *self.in_shape[2:]))

    def rows(self, x: Array) -> npt.NDArray[np.float32]:
        """An input of the layer as rows (N, C)."""
        last = np.moveaxis(x, 1, -1) if self.is_conv else x
        rows: npt.NDArray[np.float32] = last.reshape(-1, last.shape[-1]).astype(np.float32)
        return rows

    def windows(self, x: Array, most: int) -> npt.NDArray[np.float32]:
        """What the kernel meets in an input, (G, S, K), at no more than ``most`` places spread evenly over it."""
        if not self.is_conv:
            rows = self.rows(x)
            return rows[spread(len(rows), most)][None]
        how, (height, width) = self.attributes, self.kernel.shape[2:]
        strides, dilations = how.get("strides", [1, 1]), how.get("dilations", [1, 1])
        top, left, bottom, right = self.pads
        if self.is_transposed:
            x = _spaced(x, strides)
            down, across = how.get("output_padding", [0, 0])
            top, bottom = (dilations[0] * (height - 1) - pad for pad in (top, bottom))
            left, right = (dilations[1] * (width - 1) - pad for pad in (left, right))
            bottom, right, strides = bottom + down, right + across, [1, 1]
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        down = (x.shape[2] - dilations[0] * (height - 1) - 1) // strides[0] + 1
        across = (x.shape[3] - dilations[1] * (width - 1) - 1) // strides[1] + 1
        image, place = np.divmod(spread(len(x) * down * across, most), down * across)
        y = place[:, None] // across * strides[0] + np.arange(height) * dilations[0]
        z = place[:, None] % across * strides[1] + np.arange(width) * dilations[1]
        found = x.transpose(0, 2, 3, 1)[image[:, None, None], y[:, :, None], z[:, None, :]]  # (S, h, w, C)
        found = found.reshape(len(image), height * width, self.groups, -1).transpose(2, 0, 3, 1)
        windows: npt.NDArray[np.float32] = found.reshape(self.groups, len(image), -1).astype(np.float32)
        return windows

    def pixels_met(self) -> npt.NDArray[np.int64]:
        """Numbers (S h w,) of the pixels that a convolution's windows meet, S places by h w taps, row by row in each;
        of all that are around the image the number of its pixels.
        """
        how, (height, width) = self.attributes, self.in_shape[2:]
        strides, dilations = how.get("strides", [1, 1]), how.get("dilations", [1, 1])
        y, x = (
            np.arange(self.out_shape[2 + k])[:, None] * strides[k]
            + np.arange(self.kernel.shape[2 + k]) * dilations[k]
            - self.pads[k]
            for k in range(2)
        )
        y, x = y[:, None, :, None], x[None, :, None, :]
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        met: npt.NDArray[np.int64] = np.where(inside, y * width + x, height * width).ravel()
        return met


def _spaced(x: Array, strides: list[int]) -> Array:
    """Images (B, C, H, W) with zeros between their pixels, as many as the strides less one."""
    batch, channels, height, width = x.shape
    spaced = np.zeros((batch, channels, (height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1), x.dtype)
    spaced[..., :: strides[0], :: strides[1]] = x
    return spaced


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most ``most`` of the numbers 0 to ``count`` - 1, evenly spread."""
    chosen = min(count, most)
    return np.arange(chosen, dtype=np.int64) * count // chosen


def find_layers(model: Any) -> tuple[list[Layer], int]:
    """The layers of a model that int8 fits, in order, and the multiply-adds of one image through the whole model."""
    from onnx import numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    (shapes, _), found, total = infer(model), [], 0
    for node in model.graph.node:
        work = multiply_adds(node, shapes)
        total += work
        if work and _fits(node, constants):
            kernel, *bias = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
            found.append(
                Layer(node, kernel, bias[0] if bias else None, work, shapes[node.input[0]], shapes[node.output[0]])
            )
    return found, total


def written_tensors(model: Any, layers: Sequence[Layer]) -> dict[str, str]:
    """By layer, the tensor that leaves it: behind its activation, where that alone reads the layer."""
    readers = readers_of(model)
    outputs = {output.name for output in model.graph.output}
    constants = {constant.name for constant in model.graph.initializer}
    written = {}
    for layer in layers:
        after = readers.get(layer.name, [])
        fuses = (
            len(after) == 1
            and after[0].op_type in _ACTIVATIONS
            and layer.name not in outputs
            and constants.issuperset(name for name in after[0].input[1:] if name)
        )
        tensor = after[0].output[0] if fuses else layer.name
        if tensor not in outputs:
            written[layer.name] = str(tensor)
    return written


def activation_bounds(activation: Any, constants: Mapping[str, Any]) -> tuple[float, float]:
    """The least and the largest value that an activation of ``written_tensors`` gives; constants by name."""
    from onnx import numpy_helper

    if activation.op_type != "Clip":
        return 0.0, np.inf
    names = [*activation.input[1:], "", ""][:2]
    least, most = (float(numpy_helper.to_array(constants[name])) if name else None for name in names)
    return -np.inf if least is None else least, np.inf if most is None else most


def bounds_told_apart(name: str, readers: Sequence[Any]) -> tuple[float, float]:
    """The values of a tensor beyond which its readers give one and the same: below -3 a hard-swish gives 0.

    Args:
        name: The tensor.
        readers: The nodes that read it; a SiLU is a Sigmoid and the Mul of both.
    """
    kinds = sorted(reader.op_type for reader in readers)
    if kinds == ["HardSwish"]:
        return -3.0, np.inf
    if kinds == ["HardSigmoid"]:
        how = attributes(readers[0])
        slope, middle = how.get("alpha", 0.2), how.get("beta", 0.5)
        return -middle / slope, (1 - middle) / slope
    if kinds == ["Sigmoid"]:
        return -_SATURATED, _SATURATED
    if kinds == ["Mul", "Sigmoid"]:
        product, gate = sorted(readers, key=lambda reader: str(reader.op_type))
        if set(product.input) == {name, gate.output[0]}:
            return -_SATURATED, np.inf
    return -np.inf, np.inf


def _fits(node: Any, constants: dict[str, Any]) -> bool:
    """Is the node one whose kernel alone is constant, written in the plain way that `Layer` reads?"""
    from onnx import TensorProto

    how = attributes(node)
    if node.input[0] in constants or any(name not in constants for name in node.input[1:]):
        return False
    kernel = constants[node.input[1]]
    if kernel.data_type not in (TensorProto.FLOAT16, TensorProto.FLOAT):
        return False
    if node.op_type in ("Conv", "ConvTranspose"):
        plain = len(kernel.dims) == 4 and how.get("auto_pad", b"NOTSET") == b"NOTSET"
        return plain and (node.op_type == "Conv" or _is_plain_transposed(how, kernel.dims[2:]))
    plain = how.get("alpha", 1.0) == how.get("beta", 1.0) == 1.0 and not how.get("transA", 0)
    return len(kernel.dims) == 2 and plain


def _is_plain_transposed(how: dict[str, Any], taps: Sequence[int]) -> bool:
    """One group, whose scales an output channel can have of its own, and pads that are pads of the convolution too."""
    dilations = how.get("dilations", [1, 1])
    reach = [dilation * (size - 1) for dilation, size in zip(dilations, taps, strict=True)] * 2
    fits = all(pad <= most for pad, most in zip(how.get("pads", [0] * 4), reach, strict=True))
    return fits and how.get("group", 1) == 1 and "output_shape" not in how
