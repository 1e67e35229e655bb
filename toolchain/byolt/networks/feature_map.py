"""An encoder's last feature map in place of its vector: what detectors and segmenters are built on.

Axes: B images, C channels, H W of the map.
"""

import torch
from torch import Tensor, nn

from byolt_export.errors import InputError

# What stands between the last map and the vector; its outputs are the map pooled, or the map again.
_AFTER_THE_MAP = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Flatten, nn.Identity)


class FeatureMap(nn.Module):
    """An encoder of torchvision or timm that gives its last map (B, C, H, W); a transformer's tokens (B, T, C).

    Of timm's it is ``forward_features``; of torchvision's, the output of the last layer before the pooling.

    Attributes:
        layer: That layer's name; empty for timm's.
    """

    def __init__(self, encoder: nn.Module, image_size_px: int) -> None:
        """Find the map by a look at an empty image.

        Raises:
            InputError: The encoder has none.
        """
        super().__init__()
        self.encoder = encoder.eval()
        self.layer = "" if hasattr(encoder, "forward_features") else _last_map(self.encoder, image_size_px)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), or tokens (B, T, C), of normalised images (B, 3, S, S)."""
        if not self.layer:
            features: Tensor = self.encoder.forward_features(x)  # type: ignore[operator]
            return features
        found: list[Tensor] = []
        # Put on for this call alone: a copy of this module must not see the layer of another.
        hook = self.encoder.get_submodule(self.layer).register_forward_hook(lambda _, __, output: found.append(output))
        try:
            self.encoder(x)
        finally:
            hook.remove()
        return found[-1]


def _last_map(encoder: nn.Module, image_size_px: int) -> str:
    """Name of the layer that gives a map or tokens last, pooling aside."""
    names: list[str] = []

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4):
            names.append(name)

    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, layer in encoder.named_modules()
        if name and not isinstance(layer, _AFTER_THE_MAP)
    ]
    try:
        with torch.no_grad():
            encoder(torch.zeros(1, 3, image_size_px, image_size_px))
    finally:
        for hook in hooks:
            hook.remove()
    if not names:
        raise InputError(f"export.output: {type(encoder).__name__} has no feature map; export its embedding")
    return names[-1]
