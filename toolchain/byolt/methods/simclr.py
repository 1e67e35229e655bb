"""SimCLR: of all other views in the batch, find the one of the same image.

Chen et al. 2020 (arXiv:2002.05709), section 2.1. Axes: B images, D projection features.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from byolt.distributed.collectives import gather_rows, own_rows
from byolt.methods.base import Images, Method, Outcome, upcast
from byolt.methods.build import Networks
from byolt.recipe.method_settings.simclr import SimClrMethod


class SimClr(Method):
    """One network; both views of an image must be near, all other views of the batch far."""

    def __init__(self, encoder: nn.Module, projector: nn.Module, *, temperature: float) -> None:
        super().__init__(encoder, projector)
        self.temperature = temperature

    def terms(self, view_1: Images, view_2: Images) -> Iterator[Outcome]:
        """NT-Xent over the 2B views: equation 1, a mean over all of them."""
        # One forward a view, like every method here (differs: the paper normalises both views of the batch together).
        z_1, z_2 = self.project(view_1), self.project(view_2)
        yield Outcome(nt_xent(z_1, z_2, self.temperature), (z_1.detach(), z_2.detach()))


def nt_xent(z_1: Float[Tensor, "B D"], z_2: Float[Tensor, "B D"], temperature: float) -> Float[Tensor, ""]:
    """Mean over the 2B views of ``-log(exp(s(i, j) / T) / sum over k != i of exp(s(i, k) / T))``, s the cosine.

    j is the other view of image i; float32 under autocast.
    """
    z = F.normalize(upcast(torch.cat([z_1, z_2])), dim=1)
    keys = F.normalize(upcast(torch.cat([gather_rows(z_1), gather_rows(z_2)])), dim=1)
    first = own_rows(z_1)
    second = first + len(keys) // 2
    logits = z @ keys.T / temperature
    logits = logits.scatter(1, torch.cat([first, second])[:, None], -torch.inf)
    other_view = torch.cat([second, first])
    return F.cross_entropy(logits, other_view)


def build(networks: Networks, settings: SimClrMethod) -> SimClr:
    """SimCLR by the recipe."""
    return SimClr(networks.encoder, networks.projector(), temperature=settings.temperature)
