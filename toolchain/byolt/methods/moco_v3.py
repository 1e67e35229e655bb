"""MoCo v3: find the key of the same image, made by a slowly moving network, among those of the batch's other images.

Chen et al. 2021 (arXiv:2104.02057). Axes: B images, D projection features.
"""

import copy
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from byolt.distributed.collectives import gather_rows, own_rows
from byolt.methods.base import Images, Method, Outcome, info_nce
from byolt.methods.build import Networks
from byolt.recipe.method_settings.moco_v3 import MocoV3Method


class MocoV3(Method):
    """Query network with predictor, key network; the batch's other images are the negatives."""

    predictor: nn.Module

    def __init__(self, encoder: nn.Module, projector: nn.Module, predictor: nn.Module, *, temperature: float) -> None:
        super().__init__(encoder, projector, predictor)
        self.target = copy.deepcopy(nn.Sequential(encoder, projector)).requires_grad_(False)
        self.temperature = temperature

    def terms(self, view_1: Images, view_2: Images) -> Iterator[Outcome]:
        """Algorithm 1: both directions of ``ctr``, summed."""
        assert self.target is not None
        with torch.no_grad():
            key_1, key_2 = self.target(view_1), self.target(view_2)
        for view, key in ((view_1, key_2), (view_2, key_1)):
            z = self.project(view)
            q = self.predictor(z)
            yield Outcome(self.contrast(q, key), (z.detach(),), q.detach())

    def contrast(self, query: Float[Tensor, "B D"], key: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
        """``ctr`` of Algorithm 1: 2 T times the InfoNCE of each query among the batch's keys."""
        own = own_rows(query)
        return 2 * self.temperature * info_nce(query, gather_rows(key), own, self.temperature)


def build(networks: Networks, settings: MocoV3Method) -> MocoV3:
    """MoCo v3 by the recipe."""
    return MocoV3(networks.encoder, networks.projector(), networks.predictor(), temperature=settings.temperature)
