"""From raw images to a module's input, inside the graph: resize of whole frames, normalisation, layout.

Axes: B batch, H W pixels of what comes in, S side of the square that the module sees, D output features.
"""

from typing import Any

import torch
from torch import Tensor, nn

from byolt_export.bundle.image_input import Input
from byolt_export.onnx.outputs import in_float32

RESIZING = ("rows", "columns")  # Names of the constants whose products resize, which stay fp32 in every file.


class FromPixels(nn.Module):
    """Raw images (B, H, W, C), as bytes, to the module's outputs (B, D): what the device runs."""

    scale: Tensor
    shift: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, module: nn.Module, pixels: Input, normalize: bool) -> None:
        super().__init__()
        self.module, self.normalize = module, normalize
        self.deep = pixels.dtype == "uint16"
        # (x / white - mean) / std as one Mul and one Add, their constants rounded once. They have three channels, and
        # so repeat a grey image's one.
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (pixels.mean, pixels.std))
        self.register_buffer("scale", (1 / (pixels.white * std)).float().view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).float().view(1, 3, 1, 1))
        self.resizes = pixels.camera_px is not None
        if self.resizes:
            rows, columns = resize_matrices(pixels)
            self.register_buffer("rows", rows)
            self.register_buffer("columns", columns.T.contiguous())

    def forward(self, images: Tensor) -> Any:
        """Outputs (B, D) of raw images as ``arrays.as_bytes`` gives them; of ``NamedOutputs`` a tuple."""
        # To float first: TensorRT transposes no uint8. Contiguous: channels-last memory makes the pooling
        # export as `as_strided`, a tail of shape arithmetic that no tool takes out again.
        x = images.to(torch.float32)
        if self.deep:  # TensorRT has no uint16. Exact in fp32, and before the scale: fp16 ends at 65504.
            x = x[..., 0::2] + 256 * x[..., 1::2]
        x = x.permute(0, 3, 1, 2).contiguous()
        if self.resizes:
            x = self.rows @ x @ self.columns
        outputs = in_float32(self.module(x * self.scale + self.shift))
        return nn.functional.normalize(outputs, dim=1) if self.normalize else outputs


def resize_matrices(pixels: Input) -> tuple[Tensor, Tensor]:
    """``A`` (S, H) and ``B`` (S, W), float32: ``A x B^T`` cuts out and resizes a frame x (H, W) as the recipe does.

    Antialiased bilinear, which is linear in the image and separable: resizing the identity gives its weights.
    TensorRT refuses ONNX's own antialiased ``Resize``; two products of matrices run everywhere.
    """
    height, width, _ = pixels.shape
    side = min(height, width)
    crop = pixels.resize == "crop"
    return _resize_matrix(height, side if crop else height, pixels.size_px), _resize_matrix(
        width, side if crop else width, pixels.size_px
    )


def _resize_matrix(length: int, kept: int, size_px: int) -> Tensor:
    first = (length - kept) // 2
    identity = torch.eye(kept, dtype=torch.float64)[None, None]
    weights = nn.functional.interpolate(identity, (size_px, kept), mode="bilinear", antialias=True)[0, 0]
    return nn.functional.pad(weights, (first, length - kept - first)).float()
