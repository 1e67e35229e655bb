"""What PyTorch says a module's outputs are: the reference that every delivered file is compared with.

Axes: B batch, N images, H W pixels of what comes in, S side of the square that the module sees, D output features.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from byolt_export.arrays import Images, Outputs, as_bytes, pooled
from byolt_export.bundle.image_input import Input
from byolt_export.errors import ByoltError, InputError, first_line
from byolt_export.onnx.outputs import NamedOutputs, check_outputs
from byolt_export.onnx.plain import name_of, plain_copy
from byolt_export.onnx.preprocessing import FromPixels

_REFERENCE_BATCH = 64


def torch_outputs(module: nn.Module, images: Images, *, pixels: Input, normalize: bool = False) -> Outputs:
    """The reference: what PyTorch computes for images (N, H, W, C), as float32 (N, D).

    Eval mode, float32 without TF32 or autocast, on the module's own device. Resize and normalisation are torch's own
    ``interpolate`` and ``(x / white - mean) / std`` as the formula says, and share no code with the graph's. Of
    ``NamedOutputs``, the pooled maps in a row.

    Raises:
        InputError: The module's outputs are not (N, D), or those of ``NamedOutputs`` no features.
    """
    parts = [pooled(part) for part in _batches(module, images, pixels, normalize)]
    return np.concatenate(parts)


def torch_maps(module: NamedOutputs, images: Images, *, pixels: Input) -> dict[str, npt.NDArray[np.float32]]:
    """The same before they are pooled: each output by its name, (N, C, H, W), (N, tokens, C) or (N, C)."""
    parts = list(_batches(module, images, pixels, normalize=False))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _batches(
    module: nn.Module, images: Images, pixels: Input, normalize: bool
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Every output by name, batch by batch."""
    encoder = plain_copy(module)
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    mean, std = (torch.tensor(v, dtype=torch.float32, device=device).view(3, 1, 1) for v in (pixels.mean, pixels.std))
    for start in range(0, len(images), _REFERENCE_BATCH):
        with torch.inference_mode(), torch.autocast(device.type, enabled=False), full_float32():
            raw = torch.from_numpy(np.array(images[start : start + _REFERENCE_BATCH]))  # A copy: it may be read-only.
            x = raw.to(device).permute(0, 3, 1, 2).contiguous().float()
            x = _resized(x, pixels).expand(-1, 3, -1, -1)
            x = (x / pixels.white - mean) / std
            outputs = _run(encoder, x)
            if isinstance(module, NamedOutputs):
                check_outputs(name_of(module), outputs, len(x))
            elif not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(x):
                got = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
                raise InputError(
                    f"{name_of(module)} gives {got} for {len(x)} images, not (batch, features): feature maps and "
                    'several outputs are exported with BundleOptions(output="features")'
                )
            else:
                outputs = {"": outputs / outputs.norm(dim=1, keepdim=True) if normalize else outputs}
            found = {name: value.float().cpu().numpy() for name, value in outputs.items()}
        yield found


def _run(encoder: nn.Module, x: Tensor) -> Any:
    try:
        return encoder(x)
    except Exception as error:  # Whatever a module's own code raises; what is no fault of it stays what it is.
        if isinstance(error, ByoltError) or re.search("memory|alloc", str(error)):
            raise
        raise InputError(
            f"{type(encoder).__name__} does not run on images (batch, {', '.join(map(str, x.shape[1:]))}): "
            f"{first_line(error)}"
        ) from error


def torch_function(
    module: nn.Module, *, pixels: Input, normalize: bool = False, device: str = "cpu", compiled: bool = False
) -> Callable[[Images], Outputs]:
    """The module with its preprocessing as a function from images (B, H, W, 3) to outputs (B, D): what a speed is of.

    It computes in float32, and with ``compiled`` through ``torch.compile``, anew for each batch size.
    """
    model = FromPixels(plain_copy(module), pixels, normalize).eval().to(device)
    function = torch.compile(model, dynamic=False) if compiled else model

    def run(images: Images) -> Outputs:
        raw = torch.from_numpy(np.require(as_bytes(images), requirements=["C", "W"]))
        try:
            # Setting what is set already would be timed too: TF32 is the GPU's, noise the compiler's.
            exact = nullcontext() if device == "cpu" else full_float32()
            with torch.inference_mode(), exact, quiet() if compiled else nullcontext():
                given = function(raw.to(device))
                tensors = given if isinstance(given, tuple) else (given,)
                outputs = pooled({str(k): tensor.cpu().numpy() for k, tensor in enumerate(tensors)})
        except Exception as error:  # The compiler's own errors and those of the tools it calls share no base class.
            raise ByoltError(f"PyTorch does not run a batch of {len(images)}: {first_line(error)}") from error
        return outputs

    return run


def _resized(x: Tensor, pixels: Input) -> Tensor:
    """Frames (B, C, H, W) as squares (B, C, S, S), not rounded."""
    if pixels.camera_px is None:
        return x
    height, width = pixels.camera_px
    if pixels.resize == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        x = x[..., top : top + side, left : left + side]
    size = (pixels.size_px, pixels.size_px)
    return nn.functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)


@contextmanager
def full_float32() -> Iterator[None]:
    """Float32 as its name says, on CPU and GPU: TF32 keeps 10 bits of the mantissa, and is cuDNN's default."""
    backends: Any = torch.backends  # Its stubs lack the per-operator settings.
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    before = [part.fp32_precision for part in parts]
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the exporter's warnings and log lines: what matters of them becomes an error or a verdict."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # torch prints a graph that it cannot follow.
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
