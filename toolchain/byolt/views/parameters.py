"""What is done to each image of a batch for a view, drawn from the hash of (seed, epoch, index, view).

Order of the paper's Table 6, with a turn that it lacks: crop, flip, turn, jitter, grey, blur, solarize. Axes: B images,
T tries.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from byolt.views.hashing import uniform

if TYPE_CHECKING:
    from byolt.recipe.views import View

CROP_TRIES = 10  # torchvision draws boxes until one fits, ten times at most, then takes the centre.
_SLOTS = 2 * CROP_TRIES + 17  # Each is hashed alone: one more at the end moves none.


@dataclass(frozen=True)
class ViewParameters:
    """What is done to each image of a batch."""

    top: Int64[Tensor, "B"]
    left: Int64[Tensor, "B"]
    height: Int64[Tensor, "B"]
    width: Int64[Tensor, "B"]
    flip: Bool[Tensor, "B"]
    jitter: Bool[Tensor, "B"]
    brightness: Float32[Tensor, "B"]
    """Factor; 1 where the image is not jittered, like the next two."""
    contrast: Float32[Tensor, "B"]
    saturation: Float32[Tensor, "B"]
    hue: Float32[Tensor, "B"]
    """Shift in turns; 0 where the image is not jittered."""
    rank: Int64[Tensor, "B 4"]
    """Place, 0 to 3, of brightness, contrast, saturation and hue in the order they are applied."""
    grey: Bool[Tensor, "B"]
    blur_sigma_px: Float32[Tensor, "B"]
    """0 where the image is not blurred."""
    solarize: Bool[Tensor, "B"]
    quarter_turns: Int64[Tensor, "B"] | None
    """0 to 3 turns by 90 degrees to the left, after the flip; None where no image is turned."""


def draw_parameters(
    view: "View",
    *,
    seed: int,
    epoch: int | Int64[Tensor, ""],
    index: Int64[Tensor, "B"],
    view_number: int,
    source_px: int,
) -> ViewParameters:
    """Parameters of one view of each image, from the hash of (seed, epoch, index, view)."""
    u = uniform(seed, epoch, index, view_number, _SLOTS)
    tries, rest = u[:, : 2 * CROP_TRIES], u[:, 2 * CROP_TRIES :].unbind(1)
    height, width, fits = _crop_sizes(view, tries[:, :CROP_TRIES], tries[:, CROP_TRIES:], source_px)
    jitter = rest[3] < view.jitter

    def corner(number: Tensor, side: Tensor) -> Tensor:  # A whole pixel, uniform over all that keep the box inside.
        return torch.where(fits, (number * (source_px - side + 1)).long(), (source_px - side) // 2)

    def around(number: Tensor, neutral: float, reach: float) -> Tensor:
        return torch.where(jitter, neutral + (2 * number - 1) * reach, neutral)

    low, high = view.blur_sigma_px
    return ViewParameters(
        top=corner(rest[0], height),
        left=corner(rest[1], width),
        height=height,
        width=width,
        flip=rest[2] < view.flip,
        jitter=jitter,
        brightness=around(rest[4], 1, view.brightness),
        contrast=around(rest[5], 1, view.contrast),
        saturation=around(rest[6], 1, view.saturation),
        hue=around(rest[7], 0, view.hue),
        # Sorting four independent numbers gives each of the 24 orders with the same probability.
        rank=torch.stack(rest[8:12], 1).argsort(1).argsort(1),
        grey=rest[12] < view.grey,
        blur_sigma_px=torch.where(rest[13] < view.blur, low + rest[14] * (high - low), 0.0),
        solarize=rest[15] < view.solarize,
        quarter_turns=_quarter_turns(rest[16], view.quarter_turn) if view.quarter_turn > 0 else None,
    )


def _quarter_turns(number: Float32[Tensor, "B"], share: float) -> Int64[Tensor, "B"]:
    """1, 2 or 3, each as likely, with probability ``share``, else 0."""
    return torch.where(number < share, 1 + (3 * number / share).long().clamp_max(2), 0)


def _crop_sizes(
    view: "View", areas: Float32[Tensor, "B T"], aspects: Float32[Tensor, "B T"], source_px: int
) -> tuple[Int64[Tensor, "B"], Int64[Tensor, "B"], Bool[Tensor, "B"]]:
    """Height and width of the first box drawn that fits, and whether one did; else the largest box of allowed aspect.

    Drawing all at once and taking the first that fits is the distribution of torchvision and albumentations, which
    draw until one fits.
    """
    (area_low, area_high), (aspect_low, aspect_high) = view.crop_area, view.crop_aspect
    area = (area_low + areas * (area_high - area_low)) * source_px**2
    aspect = torch.exp(math.log(aspect_low) + aspects * math.log(aspect_high / aspect_low))
    width, height = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (width <= source_px) & (height <= source_px) & (width > 0) & (height > 0)
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    return (
        torch.where(found, height.gather(1, first)[:, 0], round(source_px / max(aspect_low, 1))),
        torch.where(found, width.gather(1, first)[:, 0], round(source_px * min(aspect_high, 1))),
        found,
    )
