"""BYOL: predict the target network's projection of one view from the online network's other view.

Grill et al. 2020 (arXiv:2006.07733), section 3. The paper's symbols: f encoder, g projector, q predictor;
theta online and xi target weights; y = f(v), z = g(y); tau the target's decay.
Axes: B images, D projection features, H W pixels.
"""

import copy
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from byolt.distributed.collectives import batch_moments, gather_rows, own_rows
from byolt.methods.base import Images, Method, Outcome, upcast
from byolt.methods.build import Networks
from byolt.recipe.method_settings.byol import ByolMethod

Normalisation = Literal["l2", "layer", "batch", "none"]


class Byol(Method):
    """Online encoder, projector and predictor, and the target's copy of the first two."""

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        predictor: nn.Module | None,
        *,
        target: Literal["ema", "copy", "frozen"] = "ema",
        stop_gradient: bool = True,
        normalisation: Normalisation = "l2",
        beta: float = 0.0,
        temperature: float = 0.1,
    ) -> None:
        """Take the online parts; the target starts as their copy (as in the paper's code).

        Args:
            encoder: f, (B, 3, H, W) to (B, F).
            projector: g, (B, F) to (B, D).
            predictor: q, (B, D) to (B, D); None leaves it out (differs; with ``ema``: Mean Teacher without labels).
            target: ``ema`` follows the online weights; ``copy`` is the online network itself (differs: SimSiam's case,
                Table 5b of BYOL); ``frozen`` stays as it began (Table 5a, tau = 1).
            stop_gradient: False lets the gradient into a copied target (differs).
            normalisation: What both sides go through before they are compared; the paper's is ``l2`` (Table 20).
            beta, temperature: Weight of the negatives and what their cosines are divided by (appendix F.4); 0 is BYOL.
        """
        super().__init__(encoder, projector, predictor)
        self.moving, self.stop_gradient = target == "ema", stop_gradient
        self.normalisation, self.beta, self.temperature = normalisation, beta, temperature
        if target != "copy":
            self.target = copy.deepcopy(nn.Sequential(encoder, projector)).requires_grad_(False)

    def terms(self, view_1: Images, view_2: Images) -> Iterator[Outcome]:
        """The symmetric loss of equation 2: a mean over the batch, a sum over the two views, in [0, 8]."""
        # One forward a view: BatchNorm statistics must not mix the two views (the paper's code does the same).
        if self.target is None:  # Each view's projection is the other's target, so both are needed at once.
            z_1, z_2 = self.project(view_1), self.project(view_2)
            target_1, target_2 = (z_1.detach(), z_2.detach()) if self.stop_gradient else (z_1, z_2)
            first, second = self.predict(z_1, target_1, target_2), self.predict(z_2, target_2, target_1)
            yield Outcome(first.loss + second.loss, first.z + second.z, first.q)
            return
        with torch.no_grad():  # The target is in train mode too: batch statistics, as in the paper's code.
            target_1, target_2 = self.target(view_1), self.target(view_2)
        yield self.predict(self.project(view_1), target_1, target_2)
        yield self.predict(self.project(view_2), target_2, target_1)

    def predict(self, z: Float[Tensor, "B D"], same: Float[Tensor, "B D"], other: Float[Tensor, "B D"]) -> Outcome:
        """One view's half of the loss: its prediction against the ``other`` view's target projection."""
        q = z if self.predictor is None else self.predictor(z)
        loss = regression_loss(q, other, self.normalisation)
        if self.beta:
            loss = loss + self.beta * negative_term(q, same, other, self.temperature)
        return Outcome(loss, (z.detach(),), None if self.predictor is None else q.detach())

    def update_target(self, tau: float | Tensor) -> None:
        """Move an ``ema`` target (equation 1)."""
        if self.moving:
            super().update_target(tau)


def regression_loss(
    q: Float[Tensor, "B D"], z: Float[Tensor, "B D"], normalisation: Normalisation = "l2"
) -> Float[Tensor, ""]:
    """Mean over B of ``|n(q) - n(z)|^2``; float32 under autocast (equation 2).

    With l2 that is ``|q/|q| - z/|z||^2 = 2 - 2 cos(q, z)``, in [0, 4].
    """
    q, z = upcast(q), upcast(z)
    if normalisation == "l2":
        return (2 - 2 * F.cosine_similarity(q, z, dim=-1)).mean()
    return (_normalised(q, normalisation) - _normalised(z, normalisation)).square().sum(1).mean()


def _normalised(x: Float[Tensor, "B D"], normalisation: Normalisation) -> Float[Tensor, "B D"]:
    """The other normalisations of Table 20; rows keep a squared norm of 1 (batch: on average)."""
    if normalisation == "layer":
        x = F.layer_norm(x, x.shape[1:]) / x.shape[1] ** 0.5
    elif normalisation == "batch":
        mean, variance = batch_moments(x)
        x = (x - mean) * (variance + 1e-5).rsqrt() / x.shape[1] ** 0.5
    return x


def negative_term(
    q: Float[Tensor, "B D"], same: Float[Tensor, "B D"], other: Float[Tensor, "B D"], temperature: float
) -> Float[Tensor, ""]:
    """The term that pushes images apart: beta's part of the InfoNCE of appendix F.4, as a loss.

    With S the cosine of prediction and target projection: mean over i of
    ``2 T ln(sum over j != i of exp(S(v_i, v_j) / T) + sum over j of exp(S(v_i, v'_j) / T))``.

    Args:
        q: Predictions of view v.
        same, other: Target projections of the same view v, and of the other view v'.
        temperature: T, the paper's alpha.
    """
    unit = F.normalize(upcast(q), dim=1)
    within = unit @ F.normalize(upcast(gather_rows(same)), dim=1).T / temperature
    across = unit @ F.normalize(upcast(gather_rows(other)), dim=1).T / temperature
    within = within.scatter(1, own_rows(q)[:, None], -torch.inf)
    return 2 * temperature * torch.cat([within, across], 1).logsumexp(1).mean()


def build(networks: Networks, settings: ByolMethod) -> Byol:
    """BYOL by the recipe."""
    return Byol(
        networks.encoder,
        networks.projector(),
        None if settings.predictor == "none" else networks.predictor(linear=settings.predictor == "linear"),
        target=settings.target,
        stop_gradient=settings.stop_gradient,
        normalisation=settings.normalisation,
        beta=settings.beta,
        temperature=settings.temperature,
    )
