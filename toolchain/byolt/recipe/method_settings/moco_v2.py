"""Settings of MoCo v2."""

from typing import Literal

from byolt.recipe.method_settings.base import MethodSettings, TargetDecay
from byolt.recipe.section import Count, Share, Temperature


class MocoV2Method(MethodSettings):
    """MoCo v2 (He et al. 2020, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297)."""

    name: Literal["moco_v2"]
    """Contrastive learning against a queue of keys."""
    tau: Share = 0.999
    """Decay of the key network, constant; the papers' m."""
    temperature: Temperature = 0.2
    """Cosines are divided by it."""
    queue_size: Count = 65536
    """Keys that are kept as negatives; at least those of one batch."""
    norm_groups: Count = 8
    """Parts of a batch with BatchNorm statistics of their own, as on as many devices."""
    shuffle: bool = True
    """Spread a query's part over all parts of the keys, so that BatchNorm's statistics do not give the answer away."""

    @property
    def target_decay(self) -> TargetDecay:
        """Constant."""
        return TargetDecay(self.tau, "constant")

    @property
    def norm_parts(self) -> int:
        """The recipe's `norm_groups`."""
        return self.norm_groups

    def largest_batch(self, accumulate: int) -> int:
        """The queue holds both views' keys of a part."""
        return self.queue_size // 2 * accumulate

    def check_batch(self, batch_size: int, accumulate: int) -> None:
        """Equal groups, and a queue that holds a part's keys."""
        part = batch_size // accumulate
        if part % self.norm_groups or part // self.norm_groups < 2:
            raise ValueError(
                f"method.norm_groups {self.norm_groups} must cut a batch of {part} into equal parts of at least 2"
            )
        if self.queue_size < 2 * part:
            raise ValueError(f"method.queue_size {self.queue_size} must hold the {2 * part} keys of a batch of {part}")
