"""What a module gives besides one embedding: feature maps and tokens, by name.

Axes: B batch, C channels, H W of a map.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from byolt_export.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")  # As the manifest has it.


class NamedOutputs(nn.Module):
    """A module whose outputs, whatever they come in, are tensors by name: what ``output: features`` delivers.

    A single tensor is named ``features``; those of a list or tuple ``features.0``, ``features.1`` and so on; those of a
    dict or named tuple keep their names, and ``None`` among them is left out.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W), (B, tokens, C) or (B, C) by name."""
        given = self.module(x)
        if isinstance(given, Tensor):
            given = {"features": given}
        elif hasattr(given, "_asdict"):
            given = given._asdict()
        elif isinstance(given, list | tuple):
            given = {f"features.{number}": value for number, value in enumerate(given)}
        if not isinstance(given, Mapping):
            raise InputError(
                f"{type(self.module).__name__} gives {type(given).__name__}, which holds no tensors by name"
            )
        return {str(name): value for name, value in given.items() if value is not None}


def check_outputs(name: str, outputs: Mapping[str, Any], batch: int) -> None:
    """Refuse outputs that cannot be compared: no floats, or not one row an image.

    Raises:
        InputError: One is such; ``name`` opens the sentence.
    """
    if not outputs:
        raise InputError(f"{name} gives no outputs")
    for key, value in outputs.items():
        if not _NAME.fullmatch(key) or key == "images":
            raise InputError(f"{name} names an output {key!r}: take letters, digits, dots and dashes, and not `images`")
        if not isinstance(value, Tensor):
            raise InputError(f"{name} gives {type(value).__name__} as `{key}`: features are tensors, none in another")
        if not 2 <= value.ndim <= 4 or len(value) != batch or not value.is_floating_point() or not value.numel():
            kind = str(value.dtype).removeprefix("torch.")
            raise InputError(
                f"{name} gives {kind} {tuple(value.shape)} as `{key}` for {batch} images: features are floats of shape "
                "(batch, C, H, W), (batch, tokens, C) or (batch, C)"
            )


def in_float32(outputs: Any) -> Any:
    """One tensor in float32, or those of ``NamedOutputs``, as a tuple in their order."""
    if isinstance(outputs, Tensor):
        return outputs.to(torch.float32)
    return tuple(value.to(torch.float32) for value in outputs.values())
