"""Pixels are whole numbers already: the layers that see the image read them as they are, with no rounding at all.

Normalised pixels do not fall on the levels of one scale, and edges, on which the first layer lives, are differences of
a few grey levels (measured on an EfficientNet-Lite0: rounding its input cost 1.7 times what all other tensors did).
"""

from typing import Any

import numpy as np

from byolt_export.quantize.fragments import drop_unread
from byolt_export.quantize.multiply_adds import attributes

MIDDLE = 128.0
"""What is taken off a pixel of 0 to 255, so that int8 holds it."""
INSIDE = 127.0
"""Value of the added channel inside the image; around it the convolution pads with zeros, as it did before."""


def read_pixels(model: Any) -> str | None:
    """Let the convolutions that read normalised pixels read pixels less ``MIDDLE``; the model computes what it did.

    With a scale and a shift of each channel, ``conv(pixel * scale + shift)`` is a convolution of the pixel and of a
    channel that is constant inside the image and 0 around it, which the padding needs: it pads with zeros, and those
    are no pixel's value.

    Args:
        model: An ONNX graph in fp32, changed in place.

    Returns:
        Name of the tensor (B, C + 1, H, W) that they read now, every value a whole number of -128 to 127 where no frame
        was resized before; ``None`` where something else than a convolution reads the pixels, or they are 16-bit.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    bytes_of_pixel = graph.input[0].type.tensor_type.shape.dim[-1].dim_value
    found = _normalisation(graph, constants)
    if found is None or bytes_of_pixel not in (1, 3):  # Of 16 bits: more levels than int8 has.
        return None
    pixels, scale, shift, normalised = found
    readers = [node for node in graph.node if normalised in node.input]
    if normalised in {output.name for output in graph.output} or not all(_is_plain(n, constants) for n in readers):
        return None
    channels = int(bytes_of_pixel)
    at = next(k for k, node in enumerate(graph.node) if normalised in node.output)
    names = {key: f"{pixels}.{key}" for key in ("middle", "less", "pads", "inside", "whole")}
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(MIDDLE, np.float32), names["middle"]),
            numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64), names["pads"]),
            numpy_helper.from_array(np.array(INSIDE, np.float32), names["inside"]),
        ]
    )
    made = [
        helper.make_node("Sub", [pixels, names["middle"]], [names["less"]], f"node_{names['less']}"),
        helper.make_node(
            "Pad", [names["less"], names["pads"], names["inside"]], [names["whole"]], f"node_{names['whole']}"
        ),
    ]
    for offset, node in enumerate(made):
        graph.node.insert(at + 1 + offset, node)
    for node in readers:
        kernel = _of_pixels(constants[node.input[1]].astype(np.float64), scale, shift, channels)
        node.input[0], node.input[1] = names["whole"], f"{node.output[0]}.of_pixels"
        graph.initializer.append(numpy_helper.from_array(kernel.astype(np.float32), node.input[1]))
    drop_unread(graph)
    return names["whole"]


def _of_pixels(kernel: Any, scale: Any, shift: Any, channels: int) -> Any:
    """The kernel (O, C + 1, h, w) of pixels less ``MIDDLE`` and the constant channel, of one (O, 3, h, w)."""
    of_pixels = kernel * scale[None, :, None, None]
    if channels == 1:
        of_pixels = of_pixels.sum(axis=1, keepdims=True)
    constant = (kernel * (scale * MIDDLE + shift)[None, :, None, None]).sum(axis=1, keepdims=True) / INSIDE
    return np.concatenate([of_pixels, constant], axis=1)


def _normalisation(graph: Any, constants: Any) -> tuple[str, Any, Any, str] | None:
    """The tensors of pixels and of normalised pixels, with scale and shift of each channel, where there are any."""
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type != "Add" or node.input[1] not in constants:
            continue
        before = makers.get(node.input[0])
        if before is None or before.op_type != "Mul" or before.input[1] not in constants:
            continue
        scale, shift = constants[before.input[1]], constants[node.input[1]]
        if scale.ndim == 4 and scale.shape == shift.shape == (1, scale.shape[1], 1, 1):
            scale, shift = scale.astype(np.float64).ravel(), shift.astype(np.float64).ravel()
            return before.input[0], scale, shift, node.output[0]
        return None
    return None


def _is_plain(node: Any, constants: Any) -> bool:
    how = attributes(node)
    kernel = constants.get(node.input[1]) if len(node.input) > 1 else None
    return (
        node.op_type == "Conv"
        and kernel is not None
        and kernel.ndim == 4
        and how.get("group", 1) == 1
        and how.get("auto_pad", b"NOTSET") == b"NOTSET"
    )
