"""Where does a delivered file part from PyTorch? Tensors on the way, compared node by node."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt_export.arrays import Images, Outputs, as_bytes
from byolt_export.errors import ByoltError, MissingPart
from byolt_export.proof.measures import relative_l2
from byolt_export.proof.report import Bisection, NodeError
from byolt_export.runtime.onnx_runner import run_model


def bisect(path: Path, expected: Mapping[str, Outputs], images: Images, *, limit: float) -> Bisection:
    """Compare an ONNX file's intermediate tensors, run by ONNX Runtime, with PyTorch's of the same names.

    Args:
        path: The file.
        expected: PyTorch's tensors by the names that the file gives them: ``torch_tensors``.
        images: What both were computed from, (B, H, W, C).
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
        from_inputs = max((inherited.get(name, 0.0) for name in node.input), default=0.0)
        for output in node.output:
            inherited[output] = from_inputs
            if output in found:
                errors[output] = inherited[output] = _error(expected[output], found[output])
                layers.append((node, errors[output], max(0.0, errors[output] - from_inputs)))
    if not layers:
        raise ByoltError(f"{path} shares no intermediate tensor with PyTorch's program: was it exported by byolt?")
    total = sum(own for *_, own in layers) or 1.0
    compared = tuple(NodeError(node.output[0], node.op_type, error, own, own / total) for node, error, own in layers)
    return Bisection(next((node for node in compared if node.own > limit), None), compared)


def _tensors(model: Any, expected: Mapping[str, Outputs], images: Images, path: Path) -> dict[str, npt.NDArray[Any]]:
    """The file's tensors that PyTorch's program has too, by name."""
    import onnx

    names = [name for node in model.graph.node for name in node.output if name in expected]
    present = {output.name for output in model.graph.output}
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    feeds = [{"images": as_bytes(images)}]
    (outputs,) = run_model(opened.SerializeToString(), feeds, str(path))
    return {name: outputs[name] for name in names if outputs[name].shape == expected[name].shape}


def _error(reference: Outputs, candidate: npt.NDArray[Any]) -> float:
    """Relative L2 of the worst image, over all of its tensor."""
    flat = candidate.astype(np.float32).reshape(len(candidate), -1)
    return float(relative_l2(reference.reshape(len(reference), -1), np.nan_to_num(flat)).max())
