"""Why a method does not collapse, measured: projections' covariance, predictor in its axes, distance of the target.

Tian et al. 2021 (arXiv:2102.06810) explain BYOL and SimSiam by a linear predictor whose axes turn into those of the
projections' correlation, and whose gains keep small directions alive. Axes: N projections, D dimensions.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from byolt.methods.base import Method, Outcome

SMALLEST = 1e-6
"""Directions with less than this share of the variance are rounding, and have no axis to align with."""


def dynamics(outcome: Outcome, method: Method) -> dict[str, Any]:
    """What a log line holds of one step: ``projection_rank``, ``predictor_alignment``, ``target_distance``.

    The second is absent without predictor, the third without a target of its own.
    """
    z_1, z_2 = (z.cpu() for z in outcome.z)
    metrics = {"projection_rank": round(effective_rank(spectrum(torch.cat([z_1, z_2]))), 3)}
    if outcome.q is not None:
        metrics["predictor_alignment"] = round(predictor_alignment(z_1, outcome.q.cpu()), 4)
    if method.target is not None:
        metrics["target_distance"] = float(f"{target_distance(method):.4g}")
    return metrics


def spectrum(z: Float[Tensor, "N D"]) -> Float[Tensor, "D"]:
    """Eigenvalues of the projections' covariance over their mean squared norm, descending; their sum is at most 1.

    The rest of 1 is the share of the common mean. All but few near 0 is dimensional collapse (Jing et al. 2022,
    arXiv:2110.09348, Fig. 2); all but one, complete collapse: a loss of cosines leaves the lengths along one direction.
    With N below D some are 0 whatever the projections are.
    """
    z = z.double()
    scale = z.square().sum(1).mean().clamp_min(torch.finfo(torch.float64).tiny)
    centred = z - z.mean(0)
    eigenvalues: Tensor = torch.linalg.eigvalsh(centred.T @ centred / len(z) / scale)
    return eigenvalues.flip(0).clamp_min(0)


def effective_rank(eigenvalues: Float[Tensor, "D"]) -> float:
    """exp of the entropy of the eigenvalues' shares, 1 to D (Roy and Vetterli 2007); 0 where all are 0."""
    total = eigenvalues.sum()
    if total <= 0:
        return 0.0
    p = eigenvalues / total
    return float(torch.exp(torch.special.entr(p).sum()))


def predictor_alignment(z: Float[Tensor, "N D"], q: Float[Tensor, "N D"]) -> float:
    """Mean cosine of u and P u over the eigenvectors u of the projections' covariance, weighted by their variance.

    P is the linear map that predicts q from z best: P u is along E[q z'] u for an eigenvector u, whatever the
    eigenvalue, so P itself is never computed; a linear predictor is P. 1 where the predictor keeps every axis, as the
    theory says that learning brings about (Tian et al. 2021, theorem 3); about 0 for a random predictor.
    """
    z, q = z.double() - z.double().mean(0), q.double() - q.double().mean(0)
    variances, axes = torch.linalg.eigh(z.T @ z / len(z))
    kept = variances > SMALLEST * variances.sum()
    if not bool(kept.any()):
        return 0.0
    variances, axes = variances[kept], axes[:, kept]
    images = q.T @ z @ axes
    cosines = (axes * images).sum(0) / images.norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    return float((variances * cosines).sum() / variances.sum())


@torch.no_grad()
def target_distance(method: Method) -> float:
    """|theta - xi| / |theta| over the parameters of online encoder and projector and their target."""
    assert method.target is not None
    online: list[Tensor] = [weight for part in (method.encoder, method.projector) for weight in part.parameters()]
    target: list[Tensor] = list(method.target.parameters())
    apart = torch._foreach_norm(torch._foreach_sub(online, target))
    size = torch.stack(torch._foreach_norm(online)).norm()
    return float(torch.stack(list(apart)).norm() / size)
