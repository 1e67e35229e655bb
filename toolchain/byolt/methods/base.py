"""What the learner asks of a method, and what several methods share.

Axes: B images, D projection features, H W pixels.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

Images = Float[Tensor, "B 3 H W"]


class Outcome(NamedTuple):
    """What one forward of a method gives."""

    loss: Float[Tensor, ""]
    """The loss, a mean over the batch."""
    z_1: Float[Tensor, "B D"]
    """Online projections of the first view, detached: what the collapse measures look at."""
    z_2: Float[Tensor, "B D"]
    """Online projections of the second view, detached; a teacher's logits where only it sees that view."""
    q_1: Float[Tensor, "B D"] | None = None
    """Predictions from the first view's projections, detached; None without a predictor."""


class Term(NamedTuple):
    """A summand of the loss that can go backward before the next one is made."""

    loss: Float[Tensor, ""]
    z: tuple[Float[Tensor, "B D"], ...]
    """Online projections of the views that were seen for it, detached."""
    q: Float[Tensor, "B D"] | None = None
    """Predictions from the first of them, detached."""


class Method(nn.Module):
    """Networks with a loss over two views, and for Mean Teacher labels."""

    encoder: nn.Module
    """f, (B, 3, H, W) to (B, F): what is learned."""
    projector: nn.Module
    """g, (B, F) to (B, D)."""
    predictor: nn.Module | None
    """q, (B, D) to (B, D), or None."""
    target: nn.Sequential | None
    """Encoder and projector of the target network, or None where there is no other network."""
    terms: Callable[..., Iterator[Term]]
    """Each method's own: the summands of a batch's loss, so that only one holds its activations at a time."""

    def __init__(self, encoder: nn.Module, projector: nn.Module, predictor: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.projector, self.predictor = encoder, projector, predictor
        self.target = None

    @property
    def delivered(self) -> nn.Module:
        """The encoder that is evaluated and exported."""
        return self.encoder

    def forward(self, *batch: Tensor) -> Outcome:
        """The whole loss: the terms' sum."""
        return joined(list(self.terms(*batch)))

    def set_progress(self, progress: float) -> None:
        """Told before each step which share of the run, in [0, 1), is behind it."""

    def update_target(self, tau: float | Tensor) -> None:
        """Called after each optimizer step with the tau of the step: the target, where there is one, follows."""
        if self.target is not None:
            follow(self.target, [self.encoder, self.projector], tau)

    def project(self, view: Images) -> Float[Tensor, "B D"]:
        """Online projections z = g(f(v))."""
        z: Tensor = self.projector(self.encoder(view))
        return z


def joined(terms: list[Term]) -> Outcome:
    """The outcome of a batch from all its terms."""
    z_1, z_2 = (z for term in terms for z in term.z)
    return Outcome(torch.stack([term.loss for term in terms]).sum(), z_1, z_2, terms[0].q)


def wide(x: Tensor) -> Tensor:
    """float32, where a loss is computed under autocast; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


@torch.no_grad()
def follow(target: nn.Module, online: list[nn.Module], tau: float | Tensor) -> None:
    """Set xi <- tau * xi + (1 - tau) * theta (equation 1 of BYOL), for parameters.

    Buffers are left alone: the target's running statistics come from its own forwards.
    """
    theta: list[Tensor] = [weight for part in online for weight in part.parameters()]
    xi: list[Tensor] = list(target.parameters())
    # lerp(xi, theta, 1 - tau) = xi + (1 - tau) (theta - xi); foreach: one call for all tensors.
    if isinstance(tau, Tensor):  # Of a captured step, on the device; foreach has no lerp by one.
        torch._foreach_add_(xi, torch._foreach_mul(torch._foreach_sub(theta, xi), 1 - tau))
    else:
        torch._foreach_lerp_(xi, theta, 1 - tau)


def info_nce(
    query: Float[Tensor, "B D"], keys: Float[Tensor, "K D"], positive: Int64[Tensor, "B"], temperature: float
) -> Float[Tensor, ""]:
    """Mean over B of ``-log(exp(q.k+ / T) / sum over K of exp(q.k / T))`` of unit vectors; float32 under autocast.

    van den Oord et al. 2018 (arXiv:1807.03748), eq. (4); ``positive`` is the number of each query's own key.
    """
    cosines = F.normalize(wide(query), dim=1) @ F.normalize(wide(keys), dim=1).T
    return F.cross_entropy(cosines / temperature, positive)
