"""Pieces of a graph in int8, and how they take the place of a layer."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

OPSET, IR = 19, 9
"""The first whose Q/DQ take fp16 scales, and the file version that goes with it."""


@dataclass
class Fragment:
    """Nodes, and the constants that they need."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)

    def constant(self, name: str, values: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """A constant, once, by its name."""
        from onnx import numpy_helper

        with np.errstate(over="ignore"):  # What fp16 does not hold becomes infinite, and the proof says so.
            stored = np.array(values, dtype, order="C")
        self.constants[name] = numpy_helper.from_array(stored, name)
        return name

    def add(self, op: str, inputs: Sequence[str], output: str, **how: Any) -> str:
        """A node, by the name of what it gives."""
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], f"node_{output}", **how))
        return output


def rebuilt(model: Any, replace: Callable[[Any, Fragment], bool]) -> Any:
    """A copy of a model, node by node: what ``replace`` answers False to is copied as it is.

    What nothing reads any more is left out.
    """
    result, made = type(model)(), Fragment()
    result.CopyFrom(model)
    graph = result.graph
    for node in model.graph.node:
        if not replace(node, made):
            made.nodes.append(node)
    held = {constant.name: constant for constant in model.graph.initializer} | made.constants
    del graph.value_info[:]
    _fill(graph, made.nodes, held.values())
    for opset in result.opset_import:  # 19 adds types to the operators of 18, and changes none that encoders have.
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, OPSET)
    result.ir_version = max(result.ir_version, IR)
    return result


def drop_unread(graph: Any) -> None:
    """Take out nodes and constants that nothing reads."""
    _fill(graph, graph.node, graph.initializer)


def _fill(graph: Any, nodes: Sequence[Any], constants: Iterable[Any]) -> None:
    """Give a graph what of these nodes and constants is read, and nothing else."""
    read, kept = {output.name for output in graph.output}, []
    for node in reversed(nodes):
        if read & set(node.output):
            kept.append(_copy(node))
            read |= set(node.input)
    needed = [_copy(constant) for constant in constants if constant.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept[::-1])
    graph.initializer.extend(needed)


def _copy(message: Any) -> Any:
    """What a graph held is lost to whoever keeps it when the graph is emptied."""
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def readers_of(model: Any) -> dict[str, list[Any]]:
    """By tensor, the nodes that read it."""
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers
