"""Collapse measures of a frozen encoder's features: what remains measurable when the projector is gone.

Axes: N images, B images of a batch, D features.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from byolt.data.subsets import spread
from byolt.evaluation.collapse import alignment, rankme, uniformity, z_std_ratio
from byolt.evaluation.features import Images, Subset, embed, evaluating, refuse_non_finite
from byolt.views import batched_views, in_unit_range

if TYPE_CHECKING:
    from byolt.recipe.schema import Recipe

_BATCH = 256
PROTOCOL = (
    "eval mode, images evenly spread over those learned from, no labels; z_std_ratio and uniformity of the unit "
    "features without augmentation, alignment of two views by the recipe's distributions without `views.extra`, cut "
    "from squares of image_size_px; features behind a ReLU share a mean, so compare with the untrained encoder's and "
    "not with the projections' of learning"
)


def frozen_collapse(encoder: nn.Module, images: Images, recipe: "Recipe", device: torch.device) -> dict[str, Any]:
    """RankMe, spread, uniformity and alignment of an encoder's features on at most ``probe_images`` images.

    Args:
        encoder: Gives (B, D) from normalised images; lies on ``device`` and keeps its modes.
        images: Squares of ``image_size_px``, at least two.
        recipe: Says the statistics of the channels, the views and the size of the probe set.
        device: Where the encoder lies.

    Returns:
        JSON-able. ``rankme`` is at most min(``images``, ``features``) and compares on one probe set alone.
    """
    chosen = spread(len(images), recipe.evaluation.probe_images)
    probe = Subset(images, chosen)
    features = embed(encoder, probe, mean=recipe.data.mean, std=recipe.data.std, white=recipe.data.white, device=device)
    view_1, view_2 = _view_features(encoder, probe, chosen, recipe, device)
    refuse_non_finite(torch.cat([view_1, view_2]), f"{type(encoder).__name__}, views of the images")
    return {
        "rankme": rankme(features),
        "images": features.shape[0],
        "features": features.shape[1],
        "z_std_ratio": z_std_ratio(features),
        "uniformity": uniformity(features),
        "alignment": alignment(view_1, view_2),
        "protocol": PROTOCOL,
    }


def _view_features(
    encoder: nn.Module,
    probe: Subset,
    index: "np.ndarray[Any, np.dtype[np.int64]]",
    recipe: "Recipe",
    device: torch.device,
) -> tuple[Float32[Tensor, "N D"], Float32[Tensor, "N D"]]:
    """Features of two views of each probe image, drawn as for an epoch after the last, which learning never saw."""
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    with evaluating(encoder):
        for start in range(0, len(probe), _BATCH):
            numbers = np.arange(start, min(start + _BATCH, len(probe)))
            views = batched_views(
                in_unit_range(torch.from_numpy(probe.batch(numbers)).to(device), recipe.data.white),
                torch.from_numpy(index[numbers]).to(device),
                epoch=recipe.schedule.epochs,
                seed=recipe.seed,
                views=recipe.views,
                size_px=recipe.view_size_px,
                mean=recipe.data.mean,
                std=recipe.data.std,
            )
            for side, view in zip(sides, views, strict=True):
                side.append(encoder(view).float().cpu())
    return torch.cat(sides[0]), torch.cat(sides[1])
