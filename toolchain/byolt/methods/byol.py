"""BYOL: predict the target network's projection of one view from the online network's other view.

Grill et al. 2020 (arXiv:2006.07733), section 3. The paper's symbols: f encoder, g projector, q predictor;
theta online and xi target weights; y = f(v), z = g(y); tau the target's decay.
Axes: B images, D projection features, H W pixels.
"""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "B 3 H W"]


class Outcome(NamedTuple):
    """What one forward of a method gives."""

    loss: Float[Tensor, ""]
    """The loss, a mean over the batch."""
    z_1: Float[Tensor, "B D"]
    """Online projections of the first view, detached: what the collapse measures look at."""
    z_2: Float[Tensor, "B D"]
    """Online projections of the second view, detached."""


class Byol(nn.Module):
    """Online encoder, projector and predictor, and the target's copy of the first two."""

    def __init__(
        self, encoder: nn.Module, projector: nn.Module, predictor: nn.Module | None, *, moving_target: bool = True
    ) -> None:
        """Take the online parts; the target starts as their copy (as in the paper's code).

        Args:
            encoder: f, (B, 3, H, W) to (B, F).
            projector: g, (B, F) to (B, D).
            predictor: q, (B, D) to (B, D); None leaves it out (differs: with a copied target that collapses).
            moving_target: False takes the online weights themselves as target, behind a
                stop-gradient (differs: SimSiam's case, Table 5b of SimSiam and appendix F of BYOL).
        """
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.predictor = predictor if predictor is not None else nn.Identity()
        self.target: nn.Sequential | None = None
        if moving_target:
            self.target = copy.deepcopy(nn.Sequential(encoder, projector)).requires_grad_(False)

    def forward(self, view_1: Images, view_2: Images) -> Outcome:
        """The symmetric loss of equation 2: a mean over the batch, a sum over the two views, in [0, 8]."""
        # One forward a view: BatchNorm statistics must not mix the two views (the paper's code does the same).
        z_1, z_2 = self.projector(self.encoder(view_1)), self.projector(self.encoder(view_2))
        if self.target is None:
            target_1, target_2 = z_1.detach(), z_2.detach()
        else:
            with torch.no_grad():  # The target is in train mode too: batch statistics, as in the paper's code.
                target_1, target_2 = self.target(view_1), self.target(view_2)
        loss = regression_loss(self.predictor(z_1), target_2) + regression_loss(self.predictor(z_2), target_1)
        return Outcome(loss, z_1.detach(), z_2.detach())

    @torch.no_grad()
    def update_target(self, tau: float) -> None:
        """Set xi <- tau * xi + (1 - tau) * theta (equation 1), for parameters.

        Buffers are left alone: the target's running statistics come from its own forwards.
        """
        if self.target is None:
            return
        online: list[Tensor] = [*self.encoder.parameters(), *self.projector.parameters()]
        target: list[Tensor] = list(self.target.parameters())
        # lerp(xi, theta, 1 - tau) = xi + (1 - tau) (theta - xi); foreach: one call for all tensors.
        torch._foreach_lerp_(target, online, 1 - tau)


def regression_loss(q: Float[Tensor, "B D"], z: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Mean over B of ``|q/|q| - z/|z||^2 = 2 - 2 cos(q, z)``, in [0, 4]; float32 under autocast (equation 2)."""
    return (2 - 2 * F.cosine_similarity(q.float(), z.float(), dim=-1)).mean()
