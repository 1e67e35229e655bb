"""Settings of SimCLR."""

from typing import Literal

from byolt.recipe.method_settings.base import MethodSettings
from byolt.recipe.section import Temperature


class SimClrMethod(MethodSettings):
    """SimCLR (Chen et al. 2020, arXiv:2002.05709)."""

    name: Literal["simclr"]
    """Contrastive learning within the batch."""
    temperature: Temperature = 0.1
    """Cosines are divided by it; 0.1 for ImageNet, 0.5 for CIFAR-10 (appendix B.9)."""
