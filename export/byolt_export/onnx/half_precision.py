"""An ONNX graph of fp32 in fp16, by one rule of types for every operator.

Products are computed in fp16; sums over many values, norms and softmax in fp32; whatever else there is in the type that
it is given, and in fp32 where it is given both, has no fp16, or reads a constant that fp16 does not hold. The schema of
an operator tells which of its inputs have to agree. Casts stand where the type changes.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from byolt_export.onnx.graph import constants_as_initializers, drop_unused

_FULL, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_PRODUCTS = frozenset(("Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"))
# Sums over many values, and powers, which fp16's 11 bits and largest value of 65,504 do not hold.
_SUMS = frozenset(
    (
        *("AveragePool", "GlobalAveragePool", "GlobalLpPool", "LpPool", "CumSum", "DFT", "STFT", "Exp", "Pow"),
        *("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LRN", "LayerNormalization"),
        *("LpNormalization", "MeanVarianceNormalization", "RMSNormalization", "LogSoftmax", "Softmax"),
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum"),
        "ReduceSumSquare",
    )
)
_LEAST, _LARGEST = float(np.finfo(np.float16).smallest_normal), float(np.finfo(np.float16).max)


def to_half(model: ModelProto, *, full: Collection[str] = ()) -> ModelProto:
    """The model in fp16, from the same inputs to the same outputs.

    Args:
        model: In fp32.
        full: Names of tensors: a node that reads or gives one of them stays fp32.
    """
    result = ModelProto()
    result.CopyFrom(model)
    constants_as_initializers(result)
    _Conversion(result, frozenset(full)).run()
    drop_unused(result)
    return result


class _Conversion:
    """A graph on its way to fp16, node by node in the order of computation."""

    def __init__(self, model: ModelProto, full: frozenset[str]) -> None:
        self.graph, self.full = model.graph, full
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.types |= {constant.name: constant.data_type for constant in self.graph.initializer}
        self.constants = {i.name: numpy_helper.to_array(i) for i in self.graph.initializer}
        self.half: set[str] = set()  # Tensors in fp16.
        self.weak = set(self.constants)  # What depends on no image, and takes the type of what it meets.
        self.before = {value.name for value in self.graph.input}  # What no product has made.
        self.nodes: list[NodeProto] = []
        self.cast: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        """Put the converted nodes in place of the graph's."""
        for node in self.graph.node:
            self._add(node)
        for output in self.graph.output:
            if output.name in self.half:
                self._rename(output.name, f"{output.name}_fp16")
                self.nodes.append(helper.make_node("Cast", [f"{output.name}_fp16"], [output.name], to=_FULL))
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)

    def _add(self, node: NodeProto) -> None:
        inputs, outputs, halves = _type_variables(node, self.opset)
        kind = self._kind(node, inputs, halves)
        floats = [k for k, name in enumerate(node.input) if name and self._is_float(name)]
        result = NodeProto()
        result.CopyFrom(node)
        for k in floats:
            sees_image = node.op_type == "Conv" and k == 1 and node.input[0] in self.before
            result.input[k] = self._in_type(node.input[k], kind if inputs[k] in halves else _FULL, sees_image)
        self.nodes.append(result)
        if kind == _HALF:
            bound = {inputs[k] for k in floats} & halves
            self.half |= {n for n, v in zip(node.output, outputs, strict=True) if v in bound and self._is_float(n)}
        # Numbers are made of pixels by a cast; what is made of truth values weighs nothing.
        casts_numbers = node.op_type == "Cast" and self.types.get(node.input[0]) != TensorProto.BOOL
        if not casts_numbers and self.weak.issuperset(node.input[k] for k in floats):
            self.weak.update(node.output)
        resizes = node.op_type == "MatMul" and not self.full.isdisjoint(node.input)
        if node.op_type not in _PRODUCTS or resizes:
            self.before.update(node.output if self.before.intersection(node.input) else ())

    def _kind(self, node: NodeProto, inputs: Sequence[str], halves: Collection[str]) -> int:
        """The type that a node computes in."""
        floats = [name for k, name in enumerate(node.input) if name and inputs[k] in halves and self._is_float(name)]
        adds_up = node.op_type in _SUMS or any(a.name == "reduction" and a.s != b"none" for a in node.attribute)
        if adds_up or not floats or not self.full.isdisjoint((*floats, *node.output)):
            return _FULL
        is_product = node.op_type in _PRODUCTS
        if any(name in self.constants and _is_lost(self.constants[name], is_product) for name in floats):
            return _FULL
        strong = [name for name in floats if name not in self.weak]
        return _HALF if is_product or (strong and self.half.issuperset(strong)) else _FULL

    def _is_float(self, name: str) -> bool:
        """Whether a tensor was fp32; one of which nothing is known is taken for it."""
        return bool(self.types.get(name, _FULL) == _FULL)

    def _in_type(self, name: str, kind: int, sees_image: bool = False) -> str:
        """The name of a tensor in this type, which is made where there is none."""
        if kind == (_HALF if name in self.half else _FULL):
            return name
        if (name, kind) not in self.cast:
            made = self.cast[name, kind] = f"{name}_{'fp16' if kind == _HALF else 'fp32'}"
            if name in self.constants:
                values = self.constants[name]
                halves = half_keeping_sums(values) if sees_image else values.astype(np.float16)
                self.graph.initializer.append(numpy_helper.from_array(halves, made))
            else:
                self.nodes.append(helper.make_node("Cast", [name], [made], f"node_{made}", to=kind))
        return self.cast[name, kind]

    def _rename(self, old: str, new: str) -> None:
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]


def _type_variables(node: NodeProto, opset: int) -> tuple[list[str], list[str], set[str]]:
    """Of each input and output of a node its type variable, and which of the variables may stand for fp16."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return [""] * len(node.input), [""] * len(node.output), set()
    inputs, outputs = (
        [formal[min(k, len(formal) - 1)].type_str for k in range(len(actual))]  # The last may stand for many.
        for formal, actual in ((schema.inputs, node.input), (schema.outputs, node.output))
    )
    halves = {c.type_param_str for c in schema.type_constraints if "tensor(float16)" in c.allowed_type_strs}
    return inputs, outputs, halves


def _is_lost(values: npt.NDArray[Any], is_product: bool) -> bool:
    """Whether fp16 does not hold a constant: too large, or, as an epsilon is, all of it below the least normal half."""
    sizes = np.abs(values[np.isfinite(values)])
    if sizes.size == 0:
        return False
    return bool(sizes.max() > _LARGEST or (not is_product and 0 < sizes.max() < _LEAST))


def half_keeping_sums(kernel: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """A kernel (O, I, h, w) in fp16 whose every window (h, w) adds up to what it did.

    The first layer finds edges: on smooth images its weights cancel, and what is left of a window's sum is their
    rounding errors. Each weight takes over the error of those before it, the smallest, whose steps are the finest,
    last (measured on CIFAR-10: worst relative L2 of 10,000 images 2.3e-3 without, 1.2e-3 with).
    """
    if kernel.ndim != 4:
        return kernel.astype(np.float16)
    windows = kernel.astype(np.float64).reshape(*kernel.shape[:2], -1)
    order = np.argsort(-np.abs(windows), axis=2, kind="stable")
    exact, rounded = np.take_along_axis(windows, order, axis=2), np.empty_like(windows)
    carried = np.zeros(windows.shape[:2])
    for k in range(windows.shape[2]):
        wanted = exact[..., k] + carried
        rounded[..., k] = wanted.astype(np.float16)
        carried = wanted - rounded[..., k]
    halves = np.empty(windows.shape, np.float16)
    np.put_along_axis(halves, order, rounded.astype(np.float16), axis=2)
    return halves.reshape(kernel.shape)
