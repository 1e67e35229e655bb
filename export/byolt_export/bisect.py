"""Where does a delivered file part from PyTorch? Tensors on the way, compared node by node."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt_export.errors import ByoltError, MissingPart
from byolt_export.measures import Images, Outputs, relative_l2
from byolt_export.runtime import onnx_tensors


@dataclass(frozen=True)
class Layer:
    """One node: its output's relative L2 from PyTorch's, and what of it the node's own inputs did not bring."""

    name: str
    operator: str
    relative_l2: float
    own: float
    share: float
    """Of the sum of all nodes' own errors."""


@dataclass(frozen=True)
class Bisection:
    """Every compared node in the order of computation, and the first whose error jumps."""

    first_bad: Layer | None
    layers: tuple[Layer, ...]

    def to_text(self) -> str:
        """One sentence."""
        if self.first_bad is None:
            return f"no node's error jumps ({len(self.layers)} compared)"
        bad = self.first_bad
        return (
            f"the error jumps at node `{bad.name}` ({bad.operator}): relative L2 {bad.relative_l2:.2g}, "
            f"of which {bad.own:.2g} is its own, {bad.share:.0%} of the total of {len(self.layers)} compared nodes"
        )


def bisect(path: Path, expected: Mapping[str, Outputs], images: Images, *, limit: float) -> Bisection:
    """Compare an ONNX file's intermediate tensors, run by ONNX Runtime, with PyTorch's of the same names.

    Args:
        path: The file.
        expected: PyTorch's tensors by the names that the file gives them: ``graph.torch_layers``.
        images: What both were computed from, uint8 (B, H, W, 3).
        limit: A node whose own error, as relative L2, is above this is bad; the first such in order is named.

    Raises:
        MissingPart: onnx or ONNX Runtime is not installed.
        ByoltError: The file shares no tensor with PyTorch's program.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingPart('onnx is not installed: pip install "byolt[export]"') from error
    model = onnx.load(path)
    found = _tensors(model, expected, images, path)
    errors: dict[str, float] = {}
    inherited: dict[str, float] = {}
    layers: list[tuple[Any, float, float]] = []
    for node in model.graph.node:
        brought = max((inherited.get(name, 0.0) for name in node.input), default=0.0)
        for output in node.output:
            inherited[output] = brought
            if output in found:
                errors[output] = inherited[output] = _error(expected[output], found[output])
                layers.append((node, errors[output], max(0.0, errors[output] - brought)))
    if not layers:
        raise ByoltError(f"{path} shares no intermediate tensor with PyTorch's program: was it exported by byolt?")
    total = sum(own for *_, own in layers) or 1.0
    told = tuple(Layer(node.output[0], node.op_type, error, own, own / total) for node, error, own in layers)
    return Bisection(next((layer for layer in told if layer.own > limit), None), told)


def _tensors(model: Any, expected: Mapping[str, Outputs], images: Images, path: Path) -> dict[str, npt.NDArray[Any]]:
    """The file's tensors that PyTorch's program has too, by name."""
    import onnx

    names = [name for node in model.graph.node for name in node.output if name in expected]
    present = {output.name for output in model.graph.output}
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    outputs = onnx_tensors(opened.SerializeToString(), names, images, str(path))
    return {name: value for name, value in outputs.items() if value.shape == expected[name].shape}


def _error(reference: Outputs, candidate: npt.NDArray[Any]) -> float:
    """Relative L2 of the worst image, over all of its tensor."""
    flat = candidate.astype(np.float32).reshape(len(candidate), -1)
    return float(relative_l2(reference.reshape(len(reference), -1), np.nan_to_num(flat)).max())
