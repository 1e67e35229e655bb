"""What PyTorch says a module's outputs are: the reference that every delivered file is compared with.

Axes: B batch, N images, H W pixels of what comes in, S side of the square that the module sees, D output features.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from byolt_export.arrays import Images, Outputs
from byolt_export.bundle.manifest import Input
from byolt_export.errors import ByoltError, InputError, first_line
from byolt_export.onnx.preprocessing import FromPixels

_REFERENCE_BATCH = 64


def torch_outputs(module: nn.Module, images: Images, *, pixels: Input, normalize: bool = False) -> Outputs:
    """The reference: what PyTorch computes for images (N, H, W, 3), as float32 (N, D).

    Eval mode, float32 without TF32 or autocast, on the module's own device. Resize and normalisation are torch's own
    ``interpolate`` and ``(x / 255 - mean) / std`` as the formula says, and share no code with the graph's.

    Raises:
        InputError: The module's outputs are not (N, D).
    """
    encoder = plain_copy(module)
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    mean, std = (torch.tensor(v, dtype=torch.float32, device=device).view(3, 1, 1) for v in (pixels.mean, pixels.std))
    parts = []
    with torch.inference_mode(), torch.autocast(device.type, enabled=False), full_float32():
        for start in range(0, len(images), _REFERENCE_BATCH):
            raw = torch.from_numpy(np.array(images[start : start + _REFERENCE_BATCH]))  # A copy: it may be read-only.
            x = raw.to(device).permute(0, 3, 1, 2).contiguous().float()
            x = (_resized(x, pixels) / 255 - mean) / std
            outputs = encoder(x)
            if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(x):
                got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
                raise InputError(f"{type(module).__name__} gives {got} for {len(x)} images, not (batch, features)")
            if normalize:
                outputs = outputs / outputs.norm(dim=1, keepdim=True)
            parts.append(outputs.float().cpu().numpy())
    return np.concatenate(parts)


def torch_function(
    module: nn.Module, *, pixels: Input, normalize: bool = False, device: str = "cpu", compiled: bool = False
) -> Callable[[Images], Outputs]:
    """The module with its preprocessing as a function from images (B, H, W, 3) to outputs (B, D): what a speed is of.

    It computes in float32, and with ``compiled`` through ``torch.compile``, anew for each batch size.
    """
    model = FromPixels(plain_copy(module), pixels, normalize).eval().to(device)
    function = torch.compile(model, dynamic=False) if compiled else model

    def run(images: Images) -> Outputs:
        raw = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        try:
            # Setting what is set already would be timed too: TF32 is the GPU's, noise the compiler's.
            exact = nullcontext() if device == "cpu" else full_float32()
            with torch.inference_mode(), exact, quiet() if compiled else nullcontext():
                outputs: Outputs = function(raw.to(device)).cpu().numpy()
        except Exception as error:  # The compiler's own errors and those of the tools it calls share no base class.
            raise ByoltError(f"PyTorch does not run a batch of {len(images)}: {first_line(error)}") from error
        return outputs

    return run


def _resized(x: Tensor, pixels: Input) -> Tensor:
    """Frames (B, 3, H, W) as squares (B, 3, S, S), not rounded."""
    if pixels.camera_px is None:
        return x
    height, width = pixels.camera_px
    if pixels.resize == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        x = x[..., top : top + side, left : left + side]
    size = (pixels.size_px, pixels.size_px)
    return nn.functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)


def plain_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode, float32 and contiguous memory, so that the caller's module stays as it is.

    A part in double precision within one of another stays so: it is the module that turns its inputs to double there.
    """
    copied = copy.deepcopy(module).eval()
    kinds = {tensor.dtype for tensor in (*copied.parameters(), *copied.buffers()) if tensor.is_floating_point()}
    if torch.float64 in kinds and len(kinds) > 1:
        copied = copied._apply(lambda t: t.float() if t.dtype in (torch.float16, torch.bfloat16) else t)
    else:
        copied = copied.float()
    return copied.to(memory_format=torch.contiguous_format)


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
