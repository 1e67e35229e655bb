"""What the learner asks of a method, and what several methods share.

Axes: B images, D projection features, H W pixels.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from byolt.methods.ema import ema_update

Images = Float[Tensor, "B 3 H W"]


class Outcome(NamedTuple):
    """What a method gives for a batch, or for a summand of its loss that can go backward before the next is made."""

    loss: Float[Tensor, ""]
    """The loss, a mean over the batch."""
    z: tuple[Float[Tensor, "B D"], ...]
    """Online projections of the views that were seen for it, detached: what the collapse measures look at. Of a batch
    those of both views; a teacher's logits where only it sees the second."""
    q: Float[Tensor, "B D"] | None = None
    """Predictions from the first of them, detached; None without a predictor."""


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
    terms: Callable[..., Iterator[Outcome]]
    """Each method's own: the summands of a batch's loss, so that only one holds its activations at a time. What else a
    batch changes, such as a queue, is done before the first of them is given."""

    def __init__(self, encoder: nn.Module, projector: nn.Module, predictor: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.projector, self.predictor = encoder, projector, predictor
        self.target = None

    @property
    def eval_encoder(self) -> nn.Module:
        """The encoder that is evaluated and exported."""
        return self.encoder

    @property
    def eval_classifier(self) -> nn.Linear | None:
        """The classifier over its features, (B, F) to logits (B, C); None for a method that learns none."""
        return None

    def forward(self, *batch: Tensor) -> Outcome:
        """The whole loss: the terms' sum."""
        return sum_of_terms(list(self.terms(*batch)))

    def set_progress(self, progress: float) -> None:
        """Set what depends on the share of the run, in [0, 1), that is done; called before each step."""

    def update_target(self, tau: float | Tensor) -> None:
        """Move the target, where there is one; called after each optimizer step with the step's tau."""
        if self.target is not None:
            ema_update(self.target, [self.encoder, self.projector], tau)

    def project(self, view: Images) -> Float[Tensor, "B D"]:
        """Online projections z = g(f(v))."""
        z: Tensor = self.projector(self.encoder(view))
        return z


def sum_of_terms(terms: list[Outcome]) -> Outcome:
    """The outcome of a batch from all its terms."""
    z = tuple(z for term in terms for z in term.z)
    return Outcome(torch.stack([term.loss for term in terms]).sum(), z, terms[0].q)


def upcast(x: Tensor) -> Tensor:
    """float32, where a loss is computed under autocast; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def info_nce(
    query: Float[Tensor, "B D"], keys: Float[Tensor, "K D"], positive: Int64[Tensor, "B"], temperature: float
) -> Float[Tensor, ""]:
    """Mean over B of ``-log(exp(q.k+ / T) / sum over K of exp(q.k / T))`` of unit vectors; float32 under autocast.

    van den Oord et al. 2018 (arXiv:1807.03748), eq. (4); ``positive`` is the number of each query's own key.
    """
    cosines = F.normalize(upcast(query), dim=1) @ F.normalize(upcast(keys), dim=1).T
    return F.cross_entropy(cosines / temperature, positive)
