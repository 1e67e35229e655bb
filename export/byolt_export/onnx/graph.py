"""What every pass over an ONNX graph needs: constants in one place, no double precision, nothing that none reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

# No runtime of a bundle multiplies in these; what they are in a module, the parity of the file tells.
_UNUSUAL = (TensorProto.DOUBLE, TensorProto.BFLOAT16)


def constants_as_initializers(model: ModelProto) -> None:
    """Move the tensors of ``Constant`` nodes to where all other constants are."""
    kept = []
    for node in model.graph.node:
        value = _value(node)
        if value is None:
            kept.append(node)
        else:
            model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    nodes = [_copy(node) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def drop_unused(model: ModelProto) -> None:
    """Take out the constants that no node reads."""
    read = {name for node in model.graph.node for name in node.input} | {output.name for output in model.graph.output}
    needed = [_copy(constant) for constant in model.graph.initializer if constant.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(needed)


def name_outputs(model: ModelProto, wanted: Sequence[str]) -> None:
    """Give a model's outputs their names; tensors on the way that have them get others."""
    outputs = list(model.graph.output)
    names = {name: f"{name}_inside" for name in wanted}
    names |= {output.name: name for output, name in zip(outputs, wanted, strict=True)}
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(tensor, tensor) for tensor in tensors]
    for value in (*model.graph.value_info, *model.graph.initializer):
        value.name = names.get(value.name, value.name)
    for output, name in zip(outputs, wanted, strict=True):
        output.name = name


def to_single(model: ModelProto) -> None:
    """Double precision and bfloat16 become fp32, in constants and in what nodes make."""
    constants_as_initializers(model)
    for constant in model.graph.initializer:
        _to_single_tensor(constant)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in _UNUSUAL:
                attribute.i = TensorProto.FLOAT
            if attribute.type == AttributeProto.TENSOR:
                _to_single_tensor(attribute.t)
    del model.graph.value_info[:]


def _to_single_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in _UNUSUAL:
        limit = np.finfo(np.float32).max
        values = numpy_helper.to_array(tensor).astype(np.float64)
        values = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


def _value(node: NodeProto) -> Any:
    """What a ``Constant`` node holds, as an array; ``None`` of any other node."""
    if node.op_type != "Constant":
        return None
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(value)
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    return np.array(value, kinds[attribute.name]) if attribute.name in kinds else None


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied
