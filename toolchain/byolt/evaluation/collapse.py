"""Is the representation collapsing: measures without labels, and the verdict drawn from them.

Axes: N images, D features or projection dimensions. "Complete" collapse maps all images to one point,
"dimensional" collapse to a subspace of few dimensions (Jing et al. 2022, arXiv:2110.09348).
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Verdict = Literal["healthy", "dimensional", "complete"]


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
