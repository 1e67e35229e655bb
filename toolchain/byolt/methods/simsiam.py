"""SimSiam: predict the other view's projection by the same network, behind a stop-gradient.

Chen and He 2021 (arXiv:2011.10566), section 3. The paper's symbols: p = h(z) prediction, z projection.
Axes: B images, D projection features.
"""

from collections.abc import Iterator

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from byolt.methods.base import Images, Method, Outcome, upcast
from byolt.methods.build import Networks
from byolt.recipe.method_settings.simsiam import SimSiamMethod


class SimSiam(Method):
    """One network and a predictor; no negatives, no other network."""

    predictor: nn.Module

    def terms(self, view_1: Images, view_2: Images) -> Iterator[Outcome]:
        """Equation 4: half of each direction, in [-1, 1]."""
        z_1, z_2 = self.project(view_1), self.project(view_2)
        p_1, p_2 = self.predictor(z_1), self.predictor(z_2)
        loss = negative_cosine(p_1, z_2.detach()) / 2 + negative_cosine(p_2, z_1.detach()) / 2
        yield Outcome(loss, (z_1.detach(), z_2.detach()), p_1.detach())


def negative_cosine(p: Float[Tensor, "B D"], z: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Mean over B of ``-cos(p, z)`` (equation 1); float32 under autocast."""
    return -F.cosine_similarity(upcast(p), upcast(z), dim=-1).mean()


def build(networks: Networks, settings: SimSiamMethod) -> SimSiam:
    """SimSiam by the recipe."""
    return SimSiam(networks.encoder, networks.projector(), networks.predictor())
