"""Trace an ``nn.Module`` and write it as ONNX.

Axes: B batch, N images, H W pixels of what comes in, S side of the square that the module sees, D output features.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from byolt_export.arrays import Images, Outputs, as_bytes
from byolt_export.bundle.image_input import Input
from byolt_export.bundle.manifest import OPSET
from byolt_export.errors import ByoltError, MissingPart
from byolt_export.onnx.faults import export_faults
from byolt_export.onnx.folding import fold
from byolt_export.onnx.plain import plain_copy
from byolt_export.onnx.preprocessing import RESIZING, FromPixels
from byolt_export.onnx.reference import full_float32, quiet

_OUTPUT = "byolt_output"  # While it is traced: a layer of the module may be called as the output will be.


def export_onnx(
    module: nn.Module,
    path: str | Path,
    *,
    pixels: Input,
    output_name: str | Sequence[str],
    normalize: bool = False,
    precision: Literal["fp32", "fp16"] = "fp32",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a module as one ONNX file; see ``onnx_graph``.

    Args:
        module: Maps normalised images (B, 3, S, S) to (B, D), or ``NamedOutputs``.
        path: The file to write.
        pixels: What comes in, and how it is made ready.
        output_name: What the output is called; of ``NamedOutputs``, what each is.
        normalize: Divide each output by its Euclidean norm, in float32.
        precision: ``fp16`` computes in half precision, but for preprocessing, sums, norms and the outputs.
        metadata: Model properties to put into the file.

    Raises:
        InputError: The exporter cannot follow the module, or the module fixes the batch size.
        MissingPart: onnx or onnxscript is not installed.
    """
    proto = onnx_graph(module, pixels=pixels, output_name=output_name, normalize=normalize, metadata=metadata)
    if precision == "fp16":
        import onnx

        from byolt_export.onnx.half_precision import to_half

        with export_faults(module, pixels.size_px):
            proto = to_half(proto, full=RESIZING)
            onnx.checker.check_model(proto, full_check=True)
    Path(path).write_bytes(proto.SerializeToString(deterministic=True))


def onnx_graph(
    module: nn.Module,
    *,
    pixels: Input,
    output_name: str | Sequence[str],
    normalize: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """A module as an ONNX graph in fp32 from raw images ``images`` to ``output_name``; the module stays untouched.

    The graph holds the preprocessing, folded BatchNorm, a dynamic batch, no path of this machine, and is the same from
    run to run. Arguments and errors are those of ``export_onnx``.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it, and would say so in a page of text.

        from byolt_export.onnx.graph import name_outputs, to_single
    except ImportError as error:
        raise MissingPart(f'{error.name} is not installed: pip install "byolt[export]"') from error
    names = [output_name] if isinstance(output_name, str) else list(output_name)
    program, shapes = _trace(module, pixels, normalize)
    with quiet(), torch.no_grad(), export_faults(module, pixels.size_px):
        exported = torch.onnx.export(
            program,
            opset_version=OPSET,
            input_names=["images"],
            output_names=[f"{_OUTPUT}_{k}" for k in range(len(names))],
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    if exported is None:
        raise ByoltError("torch.onnx.export gave no program: use its dynamo exporter (torch 2.9 or later)")
    proto = exported.model_proto
    _strip(proto)
    name_outputs(proto, names)
    with export_faults(module, pixels.size_px):
        to_single(proto)
        for key, value in sorted((metadata or {}).items()):
            proto.metadata_props.add(key=key, value=value)
        onnx.checker.check_model(proto, full_check=True)
    return proto


def torch_tensors(module: nn.Module, images: Images, *, pixels: Input) -> dict[str, Outputs]:
    """What PyTorch computes on the way, by the names that the ONNX file gives the same tensors: float32 arrays."""
    program, _ = _trace(module, pixels, False)
    found: dict[str, Outputs] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if n.op == "call_function" and isinstance(value, Tensor) and value.dtype == torch.float32:
                found[n.name] = value.numpy(force=True).copy()  # A later node may write into the same memory.
            return value

    with torch.inference_mode(), full_float32():
        Recorder(program.module(check_guards=False)).run(torch.from_numpy(np.array(as_bytes(images))))
    return found


def _trace(module: nn.Module, pixels: Input, normalize: bool) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    """The whole graph from raw images, BatchNorm folded, and its dynamic shapes."""
    batch = {0: torch.export.Dim("batch", min=1, max=max(2, pixels.max_batch))}
    square = torch.zeros(2, 3, pixels.size_px, pixels.size_px)
    frames = torch.zeros(2, *pixels.tensor_shape, dtype=torch.uint8)
    with quiet(), torch.no_grad(), export_faults(module, pixels.size_px):
        inner = torch.export.export(plain_copy(module).cpu(), (square,), dynamic_shapes=(batch,))
        traced: Any = inner.module(check_guards=False)
        fold(traced)
        whole = FromPixels(traced, pixels, normalize)
        return torch.export.export(whole, (frames,), dynamic_shapes={"images": batch}), {"images": batch}


def _strip(message: Any) -> None:
    """Clear doc strings and metadata at every depth: the exporter leaves stack traces with file names there."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for child in value if hasattr(value, "add") else [value]:  # A repeated field, or one message.
                _strip(child)
