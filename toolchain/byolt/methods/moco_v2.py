"""MoCo v2: find the key of the same image, made by a slowly moving network, in a queue of the keys of other images.

He et al. 2020 (arXiv:1911.05722); Chen et al. 2020 (arXiv:2003.04297).
Axes: B images, D projection features, K keys of the queue.
"""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from byolt.distributed.batch_norm import statistics_in_turn
from byolt.distributed.collectives import gather_rows, own_rows, world_size
from byolt.methods.base import Images, Method, Outcome, upcast
from byolt.methods.build import Networks
from byolt.recipe.method_settings.moco_v2 import MocoV2Method


class MocoV2(Method):
    """Query network, key network, and a queue of the keys of earlier batches."""

    queue: Float[Tensor, "K D"]
    position: Int64[Tensor, ""]

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        *,
        temperature: float,
        queue: Float[Tensor, "K D"],
        norm_groups: int,
        shuffle: bool,
    ) -> None:
        """Take the query's parts and the first queue.

        Args:
            encoder, projector: f and g; the key network starts as their copy.
            temperature: T, by which cosines are divided.
            queue: Random keys to begin with; its length is at least 2B.
            norm_groups: Parts of a batch that BatchNorm sees one at a time, as on as many devices.
            shuffle: Whether a key is normalised among other images than its query.
        """
        super().__init__(encoder, projector)
        self.target = copy.deepcopy(nn.Sequential(encoder, projector)).requires_grad_(False)
        self.temperature, self.norm_groups, self.shuffle = temperature, norm_groups, shuffle
        self.register_buffer("queue", F.normalize(queue, dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def terms(self, view_1: Images, view_2: Images) -> Iterator[Outcome]:
        """Mean of both directions (differs: the paper has one); both views' keys take the oldest ones' places."""
        key_1, key_2 = self._keys(view_1), self._keys(view_2)
        negatives = self.queue.clone()  # As it was before the batch, whichever terms the caller takes.
        self._enqueue(torch.cat([gather_rows(key_1), gather_rows(key_2)]))
        for view, key in ((view_1, key_2), (view_2, key_1)):
            z = self._queries(view)
            yield Outcome(self.contrast(z, key, negatives) / 2, (z.detach(),))

    def contrast(
        self, query: Float[Tensor, "B D"], key: Float[Tensor, "B D"], negatives: Float[Tensor, "K D"]
    ) -> Float[Tensor, ""]:
        """Equation 1: each query's own key against ``negatives``, not against the other keys of the batch."""
        query, key = F.normalize(upcast(query), dim=1), F.normalize(upcast(key), dim=1)
        own = (query * key).sum(1, keepdim=True)
        others = query @ upcast(negatives).T
        logits = torch.cat([own, others], 1) / self.temperature
        return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))

    def _queries(self, view: Images) -> Float[Tensor, "B D"]:
        parts = view.chunk(self.norm_groups // world_size())
        with statistics_in_turn(nn.ModuleList([self.encoder, self.projector]), len(parts)):
            return torch.cat([self.project(part) for part in parts])

    @torch.no_grad()
    def _keys(self, view: Images) -> Float[Tensor, "B D"]:
        """Unit keys in the order of the images.

        Shuffled, part k takes every G-th image from the k-th on: a fixed order spreads a query's part as well as a
        random one, since the batch itself is a random draw. Of several processes each makes the keys of as many parts.
        """
        assert self.target is not None
        whole, groups, own = (
            gather_rows(view) if self.shuffle else view,
            self.norm_groups // world_size(),
            own_rows(view),
        )
        order = torch.arange(len(whole), device=view.device)
        if self.shuffle:
            order = order.view(-1, self.norm_groups).T.flatten()
            whole = whole[order[own]]
        with statistics_in_turn(self.target, groups):
            keys = torch.cat([self.target(part) for part in whole.chunk(groups)])
        if self.shuffle:
            keys = gather_rows(keys)
            keys = torch.empty_like(keys).index_copy_(0, order, keys)[own]
        return F.normalize(upcast(keys), dim=1)

    @torch.no_grad()
    def _enqueue(self, keys: Float[Tensor, "N D"]) -> None:
        places = (self.position + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue.index_copy_(0, places, keys.to(self.queue.dtype))
        self.position.copy_((self.position + len(keys)) % len(self.queue))


def build(networks: Networks, settings: MocoV2Method) -> MocoV2:
    """MoCo v2 by the recipe."""
    with networks.drawn(2):
        queue = torch.randn(settings.queue_size, networks.projection_dim)
    return MocoV2(
        networks.encoder,
        networks.projector(),
        temperature=settings.temperature,
        queue=queue,
        norm_groups=settings.norm_groups,
        shuffle=settings.shuffle,
    )
