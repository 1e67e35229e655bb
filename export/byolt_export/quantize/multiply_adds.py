"""Multiply-adds of an ONNX graph: of each node, and their shares by the type that they are computed in."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from byolt_export.bundle.manifest import Precision

Shapes = Mapping[str, tuple[int, ...]]

PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "GRU", "LSTM", "RNN")
_SHAPE_ALONE = ("Transpose", "Reshape", "Identity", "Flatten", "Squeeze", "Unsqueeze")  # The values stay as they are.


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes as Python values."""
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def infer(model: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """By tensor, its shape for one image, where a dimension that the graph does not tell is 0, and its element type."""
    import onnx

    single = onnx.ModelProto()
    single.CopyFrom(model)
    single.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del single.graph.value_info[:]  # They name the batch that was just fixed.
    for output in single.graph.output:
        output.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    values = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
    shapes = {name: tuple(d.dim_value for d in kind.shape.dim) for name, kind in values.items()}
    types = {name: kind.elem_type for name, kind in values.items()}
    constants = graph.initializer
    return shapes | {i.name: tuple(i.dims) for i in constants}, types | {i.name: i.data_type for i in constants}


def multiply_adds(node: Any, shapes: Shapes) -> int:
    """Multiply-adds of a node for one image; 0 for what is no product."""
    out = int(np.prod(shapes.get(node.output[0], (0,))))
    if node.op_type == "Conv":
        return out * int(np.prod(shapes[node.input[1]][1:]))
    if node.op_type == "ConvTranspose":
        return int(np.prod(shapes[node.input[0]])) * int(np.prod(shapes[node.input[1]][1:]))
    if node.op_type in ("MatMul", "Gemm"):
        return out * (shapes.get(node.input[0]) or (0,))[0 if attributes(node).get("transA") else -1]
    if node.op_type == "Einsum":
        return _einsum(str(attributes(node)["equation"], "ascii"), [shapes.get(name, ()) for name in node.input])
    if node.op_type in ("GRU", "LSTM", "RNN"):  # Both kernels, once a step.
        return shapes.get(node.input[0], (0,))[0] * sum(int(np.prod(shapes.get(k, (0,)))) for k in node.input[1:3])
    return 0


def _einsum(equation: str, shapes: Sequence[tuple[int, ...]]) -> int:
    """The product of the sizes of all of an equation's letters; of a single operand nothing is multiplied."""
    sizes: dict[str, int] = {}
    for letters, shape in zip(equation.replace(" ", "").split("->")[0].split(","), shapes, strict=True):
        start, dots, end = letters.partition("...")
        named = [*start, *end]
        kept = [*shape[: len(start)], *shape[len(shape) - len(end) :]]
        sizes |= dict(zip(named, kept, strict=False))
        if dots:
            sizes["..."] = max(sizes.get("...", 1), int(np.prod(shape[len(start) : len(shape) - len(end)])))
    return int(np.prod(list(sizes.values()))) if len(shapes) > 1 else 0


def precision_shares(model: Any) -> dict[Precision, float]:
    """Shares of a model's multiply-adds by the type they are computed in; another type than these three is left out.

    A product is in int8 where both operands come out of int8, else in the type of its operands: that is how a strongly
    typed network computes it. Products of constants, which are folded, do not count; nor do the two that resize camera
    frames in fp32 before the cast to fp16.
    """
    from onnx import TensorProto

    names: dict[int, Precision] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
    shapes, types = infer(model)
    nodes, constants = list(model.graph.node), {i.name for i in model.graph.initializer}
    makers = {output: node for node in nodes for output in node.output}
    casts = (k for k, n in enumerate(nodes) if n.op_type == "Cast" and attributes(n)["to"] == TensorProto.FLOAT16)
    cast, resizing, work = next(casts, 0), 0, Counter[Precision | None]()
    for k, node in enumerate(nodes):
        if node.op_type not in PRODUCTS or constants.issuperset(node.input):
            continue
        if k < cast and node.op_type == "MatMul" and resizing < 2:
            resizing += 1
            continue
        int8 = all(_is_from_int8(name, makers, types) for name in node.input[:2])
        kind = "int8" if int8 else names.get(types.get(node.input[0], 0))
        work[kind] += max(multiply_adds(node, shapes), 1)  # Of an unknown shape it counts all the same.
    return {kind: work[kind] / work.total() for kind in ("fp32", "fp16", "int8") if work[kind]}


def _is_from_int8(name: str, makers: Mapping[str, Any], types: Mapping[str, int]) -> bool:
    """Whether a tensor is what ``DequantizeLinear`` makes of 8 bits, its shape apart."""
    from onnx import TensorProto

    node = makers.get(name)
    while node is not None and node.op_type in _SHAPE_ALONE:
        node = makers.get(node.input[0])
    eight_bits = (TensorProto.INT8, TensorProto.UINT8)  # A CPU's kernels take unsigned images.
    return node is not None and node.op_type == "DequantizeLinear" and types.get(node.input[0]) in eight_bits
