"""Is the representation collapsing: measures without labels, and the verdict drawn from them.

Axes: N images, D features or projection dimensions. "Complete" collapse maps all images to one point,
"dimensional" collapse to few directions (Jing et al. 2022, arXiv:2110.09348).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

State = Literal["none", "healthy", "dimensional", "complete"]


@dataclass(frozen=True)
class Threshold:
    """Below which metrics a reading counts towards a verdict, how many in a row make it, and what to change."""

    state: State
    z_std_ratio: float
    rankme_share: float
    """Of min(N, D); never below RANKME_FLOOR."""
    patience: int
    advice: str
    agreed: bool = False
    """Whether spread and rank must both be below; else one of them is enough."""

    def counts(self, z_std_ratio: float, rankme: float, images: int, features: int, projection_rank: float) -> bool:
        """Whether a reading counts towards the verdict; arguments as of ``CollapseMonitor.update``."""
        rank = min(rankme, projection_rank) if self.agreed else rankme
        narrow = not z_std_ratio >= self.z_std_ratio  # True for NaN.
        flat = not rank >= max(RANKME_FLOOR, self.rankme_share * min(images, features))
        return (narrow and flat) if self.agreed else (narrow or flat)


RANKME_FLOOR = 2.0
"""One point has RankMe 1, whatever N and D are."""

# Mildest first; each row holds for the rows after it too. Measured on CIFAR-10 with small ResNets of 256 features and
# 128 projection dimensions, the spread in train mode: healthy BYOL and SimSiam 0.69 to 0.82, RankMe 19 to 30 % of D;
# without predictor and moving target 0.07 after ten steps and falling, while BatchNorm kept the encoder's RankMe at
# 26 %: neither metric is enough alone. The projections' rank was 1.00 to 1.01 then (healthy 2.4 to 21): the spread
# falls onto one point where a rank, the projections' or the encoder's, says so too, and a rank alone, which an
# encoder's statistics can spoil, never ends a run. An untrained encoder has a spread of 0.2 and RankMe 7 %: hence the
# warm-up.
THRESHOLDS = (
    Threshold(
        "dimensional",
        z_std_ratio=0.25,  # An even spread then leaves 1 - 0.25^2 = 94 % of the energy to the common mean.
        rankme_share=0.05,  # Fewer directions than before learning.
        patience=2,
        advice="few directions carry the representation: strengthen the crops and the colour jitter, "
        "lower optim.base_lr, or raise method.tau_base",
    ),
    Threshold(
        "complete",
        z_std_ratio=0.1,
        rankme_share=0.0,
        patience=3,  # It ends the run, so it waits longest.
        advice="all images fall onto one point: keep BYOL's `method.predictor: mlp` and `method.target: ema`, "
        "and lower optim.base_lr",
        agreed=True,
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What the readings so far say, and what to change where that is not good."""

    state: State

    @property
    def advice(self) -> str:
        """One clause; empty where nothing is wrong."""
        return next((limit.advice for limit in THRESHOLDS if limit.state == self.state), "")


class CollapseMonitor:
    """Draws the verdict from one reading per evaluation.

    While it learns there is none until the learning rate has warmed up, and none until a first healthy reading or the
    patience of a worse one. One healthy reading clears the memory; a worse verdict needs its patience of readings in a
    row, and the verdict before it stands meanwhile.
    """

    def __init__(self, warmup_epochs: float) -> None:
        """``warmup_epochs``: readings up to the end of this epoch are not judged."""
        self.warmup_epochs = warmup_epochs
        self.verdict = Verdict("none")
        self.streaks = [0] * len(THRESHOLDS)

    def update(
        self,
        epoch: float,
        z_std_ratio: float,
        rankme: float,
        images: int,
        features: int,
        projection_rank: float = math.inf,
    ) -> Verdict:
        """The verdict after one more reading.

        Args:
            epoch: Epochs done.
            z_std_ratio: ``z_std_ratio`` of the online projections.
            rankme: ``rankme`` of the encoder's features on the probe set.
            images, features: N and D of those features.
            projection_rank: ``dynamics.effective_rank`` of the projections.
        """
        if epoch <= self.warmup_epochs:
            return self.verdict
        for row, limit in enumerate(THRESHOLDS):
            counts = limit.counts(z_std_ratio, rankme, images, features, projection_rank)
            self.streaks[row] = self.streaks[row] + 1 if counts else 0
            if self.streaks[row] >= limit.patience:
                self.verdict = Verdict(limit.state)
        if not any(self.streaks):
            self.verdict = Verdict("healthy")
        return self.verdict

    def judge_last(
        self, z_std_ratio: float, rankme: float, images: int, features: int, projection_rank: float = math.inf
    ) -> Verdict:
        """The verdict at the end of a run: of the last reading alone, within warm-up too, since no other will come."""
        reading = z_std_ratio, rankme, images, features, projection_rank
        states: list[State] = ["healthy", *(limit.state for limit in THRESHOLDS if limit.counts(*reading))]
        self.verdict = Verdict(states[-1])
        return self.verdict

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold."""
        return {"verdict": self.verdict.state, "streaks": list(self.streaks)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from the ``state()`` of an interrupted run."""
        self.verdict = Verdict(state["verdict"])
        self.streaks = list(state["streaks"])


def z_std_ratio(z: Float[Tensor, "N D"]) -> float:
    """Spread of the projections: 1 is even over all directions, 0 is a point.

    Mean over dimensions of the standard deviation of ``z / |z|``, times sqrt(D): Chen and He 2021
    (arXiv:2011.10566), sec. 4.1, where an isotropic Gaussian gives 1 / sqrt(D). With the population's standard
    deviation the ratio cannot exceed 1, since the variances of a unit vector sum to at most 1.
    """
    unit = F.normalize(z.double(), dim=1)
    return float(unit.std(0, correction=0).mean() * unit.shape[1] ** 0.5)


def rankme(features: Float[Tensor, "N D"]) -> float:
    """Effective rank of the features, 1 to min(N, D).

    Garrido et al. 2023 (arXiv:2210.02885), eq. (1) and (2): exp(-sum p log p) with
    ``p = s / |s|_1 + 1e-7`` over the singular values s, features not centred. It is bounded by
    min(N, D), so compare values of one probe set alone.
    """
    values = torch.linalg.svdvals(features.float())
    p = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))


def alignment(z_1: Float[Tensor, "N D"], z_2: Float[Tensor, "N D"]) -> float:
    """Mean squared distance of the unit projections of two views of an image, in [0, 4]; 0 is perfect.

    Wang and Isola 2020 (arXiv:2005.10242), sec. 4, alpha = 2.
    """
    return float((F.normalize(z_1.double(), dim=1) - F.normalize(z_2.double(), dim=1)).square().sum(1).mean())


def uniformity(z: Float[Tensor, "N D"]) -> float:
    """Log of the mean Gaussian potential over pairs of unit projections, in [-8, 0]; 0 is one point.

    Wang and Isola 2020 (arXiv:2005.10242), sec. 4, t = 2: log mean exp(-2 |z_i - z_j|^2) over i < j.
    """
    return float(torch.pdist(F.normalize(z.double(), dim=1)).square().mul(-2).exp().mean().log())
