"""Settings of MoCo v3."""

from typing import Literal

from byolt.recipe.method_settings.base import MovingTarget
from byolt.recipe.section import Share, Temperature


class MocoV3Method(MovingTarget):
    """MoCo v3 (Chen et al. 2021, arXiv:2104.02057)."""

    name: Literal["moco_v3"]
    """Contrastive learning within the batch against a moving average."""
    tau_base: Share = 0.99
    """Target decay at the first step; 0.996 for 1000 epochs."""
    temperature: Temperature = 1.0
    """Cosines are divided by it; 1.0 for ResNet-50, 0.2 for ViT."""
