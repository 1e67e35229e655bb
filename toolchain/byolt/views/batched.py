"""Views of a whole batch in torch, on whichever device: per-sample parameters, no loop over images, no synchronisation.

Order of the paper's Table 6: crop, flip, jitter, grey, blur, solarize. Axes: B images, S side of the source, s side of
the view, in pixels. Everything linear is a matrix a sample: crop, flip and antialiased resize are one (s, S) matrix an
axis, blur one (s, s) matrix, and the colour factors before and after the hue shift one 3 x 3 matrix and an offset.
Colour planes are kept apart and contiguous on the way, which the matrix products like; views leave channels-last.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

from byolt.views.hashing import uniform

if TYPE_CHECKING:
    from byolt.schema import View, Views

Rgb = tuple[float, float, float]

GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as in PIL, torchvision and OpenCV.
CROP_TRIES = 10  # torchvision draws boxes until one fits, ten times at most, then takes the centre.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_SLOTS = 2 * CROP_TRIES + 16


@dataclass(frozen=True)
class ViewParameters:
    """What is done to each image of a batch."""

    top: Int64[Tensor, "B"]
    left: Int64[Tensor, "B"]
    height: Int64[Tensor, "B"]
    width: Int64[Tensor, "B"]
    flip: Bool[Tensor, "B"]
    brightness: Float32[Tensor, "B"]
    """Factor; 1 where the image is not jittered, like the next two."""
    contrast: Float32[Tensor, "B"]
    saturation: Float32[Tensor, "B"]
    hue: Float32[Tensor, "B"]
    """Shift in turns; 0 where the image is not jittered."""
    rank: Int64[Tensor, "B 4"]
    """Place, 0 to 3, of brightness, contrast, saturation and hue in the order they are applied."""
    jitter: Bool[Tensor, "B"]
    grey: Bool[Tensor, "B"]
    blur_sigma_px: Float32[Tensor, "B"]
    """0 where the image is not blurred."""
    solarize: Bool[Tensor, "B"]


def batched_views(
    images: UInt8[Tensor, "B S S 3"],
    index: Int64[Tensor, "B"],
    *,
    epoch: int | Int64[Tensor, ""],
    seed: int,
    views: "Views",
    size_px: int,
    mean: Rgb,
    std: Rgb,
) -> tuple[Float[Tensor, "B 3 s s"], Float[Tensor, "B 3 s s"]]:
    """Both views of a batch, normalised, channels-last; the same for the same (seed, epoch, index) always."""
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    made = []
    for number, view in enumerate((views.view_1, views.view_2), start=1):
        parameters = draw(view, seed=seed, epoch=epoch, index=index, view_number=number, source_px=images.shape[1])
        made.append(make_view(pixels, parameters, view, size_px=size_px, mean=mean, std=std))
    return made[0], made[1]


def draw(
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
    height, width = _crop_sizes(view, tries[:, :CROP_TRIES], tries[:, CROP_TRIES:], source_px)
    jitter = rest[3] < view.jitter

    def around(number: Tensor, neutral: float, reach: float) -> Tensor:
        return torch.where(jitter, neutral + (2 * number - 1) * reach, neutral)

    low, high = view.blur_sigma_px
    return ViewParameters(
        top=(rest[0] * (source_px - height + 1)).long(),
        left=(rest[1] * (source_px - width + 1)).long(),
        height=height,
        width=width,
        flip=rest[2] < view.flip,
        brightness=around(rest[4], 1, view.brightness),
        contrast=around(rest[5], 1, view.contrast),
        saturation=around(rest[6], 1, view.saturation),
        hue=around(rest[7], 0, view.hue),
        # Sorting four independent numbers gives each of the 24 orders with the same probability.
        rank=torch.stack(rest[8:12], 1).argsort(1).argsort(1),
        jitter=jitter,
        grey=rest[12] < view.grey,
        blur_sigma_px=torch.where(rest[13] < view.blur, low + rest[14] * (high - low), 0.0),
        solarize=rest[15] < view.solarize,
    )


def _crop_sizes(
    view: "View", areas: Float32[Tensor, "B T"], aspects: Float32[Tensor, "B T"], source_px: int
) -> tuple[Int64[Tensor, "B"], Int64[Tensor, "B"]]:
    """Height and width of the first box drawn that fits, else of the whole image: torchvision's distribution."""
    (area_low, area_high), (aspect_low, aspect_high) = view.crop_area, view.crop_aspect
    area = (area_low + areas * (area_high - area_low)) * source_px**2
    aspect = torch.exp(math.log(aspect_low) + aspects * math.log(aspect_high / aspect_low))
    width, height = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (width <= source_px) & (height <= source_px) & (width > 0) & (height > 0)
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    return (
        torch.where(found, height.gather(1, first)[:, 0], source_px),
        torch.where(found, width.gather(1, first)[:, 0], source_px),
    )


def make_view(
    pixels: Float32[Tensor, "B 3 S S"], parameters: ViewParameters, view: "View", *, size_px: int, mean: Rgb, std: Rgb
) -> Float32[Tensor, "B 3 s s"]:
    """Apply parameters to pixels in 0 to 1. What ``view`` gives no chance at all is not computed."""
    p, source_px = parameters, pixels.shape[2]
    out = _along_rows(pixels, resize_matrix(p.left, p.width, source_px, size_px, flip=p.flip))
    out = _along_rows(out.transpose(2, 3), resize_matrix(p.top, p.height, source_px, size_px))
    planes = out.flatten(2).clamp_(0, 1)  # Bicubic weights overshoot. Axes (B, 3, x y): the image lies on its side.
    if view.jitter > 0 or view.grey > 0:
        planes = _recolour(planes, p, hue=view.jitter > 0 and view.hue > 0)
    out = planes.view(-1, 3, size_px, size_px)
    if view.blur > 0:
        out = _blur(out, p.blur_sigma_px)
    if view.solarize > 0:
        out = torch.where(p.solarize[:, None, None, None] & (out >= 0.5), 1 - out, out)
    scale = 1 / out.new_tensor(std)
    out = torch.addcmul((-out.new_tensor(mean) * scale)[:, None, None], out, scale[:, None, None])
    return out.transpose(2, 3).contiguous(memory_format=torch.channels_last)


def _along_rows(images: Float32[Tensor, "B 3 N K"], weights: Float32[Tensor, "B M K"]) -> Float32[Tensor, "B 3 N M"]:
    """Each image's last axis through its own matrix."""
    batch, _, rows, _ = images.shape
    return (images.reshape(batch, 3 * rows, -1) @ weights.transpose(1, 2)).view(batch, 3, rows, -1)


def resize_matrix(
    start: Int64[Tensor, "B"],
    length: Int64[Tensor, "B"],
    source_px: int,
    size_px: int,
    flip: Bool[Tensor, "B"] | None = None,
) -> Float32[Tensor, "B s S"]:
    """Crop [start, start + length) of an axis and resize it, antialiased bicubic (a = -0.5) as PIL does.

    The filter reaches no pixel outside the crop, is widened by the scale when it shrinks, and its weights sum to 1.
    """
    begin, scale = start[:, None, None].float(), (length.float() / size_px)[:, None, None]
    centre = (torch.arange(size_px, device=start.device) + 0.5)[None, :, None] * scale
    if flip is not None:
        centre = torch.where(flip[:, None, None], length[:, None, None] - centre, centre)
    source = (torch.arange(source_px, device=start.device) + 0.5)[None, None, :] - begin
    x = ((source - centre) / scale.clamp_min(1)).abs_()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    inside = (source > 0) & (source < length[:, None, None])
    weights = weights * inside
    return weights / weights.sum(2, keepdim=True)


def _recolour(planes: Float32[Tensor, "B 3 P"], p: ViewParameters, *, hue: bool) -> Float32[Tensor, "B 3 P"]:
    """Jitter in each sample's order, then grey.

    Brightness, contrast and saturation are affine in the colour, so those before the hue shift make one matrix
    and those after it another. Differs: peers clamp to 0 to 1 after each of the four; here before the hue shift,
    which needs it, and at the end.
    """
    if not hue:
        everything = torch.ones_like(p.rank, dtype=torch.bool)
        return _apply(planes, *_compose(p, everything, planes.mean(2), grey=True))
    before, after = p.rank < p.rank[:, HUE:], p.rank > p.rank[:, HUE:]
    planes = shift_hue(_apply(planes, *_compose(p, before, planes.mean(2), grey=False)), p.hue)
    return _apply(planes, *_compose(p, after, planes.mean(2), grey=True))


def _compose(
    p: ViewParameters, active: Bool[Tensor, "B 4"], mean: Float32[Tensor, "B 3"], *, grey: bool
) -> tuple[Float32[Tensor, "B 3 3"], Float32[Tensor, "B 3"]]:
    """The active factors as one colour matrix and offset; ``mean`` is the image's mean colour before them."""
    weights = mean.new_tensor(GREY)
    eye, to_grey = torch.eye(3, device=mean.device), weights.expand(3, 3)
    matrix, offset = eye.expand(len(mean), 3, 3), torch.zeros_like(mean)
    for place in range(4):
        now = active & (p.rank == place)
        b = torch.where(now[:, BRIGHTNESS], p.brightness, 1.0) * torch.where(now[:, CONTRAST], p.contrast, 1.0)
        s = torch.where(now[:, SATURATION], p.saturation, 1.0)[:, None, None]
        middle = ((matrix @ mean[:, :, None])[:, :, 0] + offset) @ weights  # Mean grey of the image so far.
        lift = torch.where(now[:, CONTRAST], (1 - p.contrast) * middle, 0.0)
        step = s * eye + (1 - s) * to_grey
        matrix = (step @ matrix) * b[:, None, None]
        offset = (step @ offset[:, :, None])[:, :, 0] * b[:, None] + lift[:, None]
    if grey:
        step = torch.where(p.grey[:, None, None], to_grey, eye)
        matrix, offset = step @ matrix, (step @ offset[:, :, None])[:, :, 0]
    return matrix, offset


def _apply(
    planes: Float32[Tensor, "B 3 P"], matrix: Float32[Tensor, "B 3 3"], offset: Float32[Tensor, "B 3"]
) -> Float32[Tensor, "B 3 P"]:
    return torch.baddbmm(offset[:, :, None], matrix, planes).clamp_(0, 1)


def shift_hue(planes: Float32[Tensor, "B 3 P"], turns: Float32[Tensor, "B"]) -> Float32[Tensor, "B 3 P"]:
    """Turn the hue of colours in 0 to 1 by ``turns``, value and chroma kept: the HSV rotation in closed form.

    With V the largest channel, C the chroma and h the hue in sixths of a turn, channel n of (5, 3, 1) becomes
    V - C clamp(min(k, 4 - k), 0, 1) with k = (n + h) mod 6.
    """
    red, green, blue = planes.unbind(1)
    value, low = planes.amax(1), planes.amin(1)
    chroma = value - low
    per_chroma = 1 / chroma.clamp_min(1e-8)
    hue = torch.where(
        value == red,
        (green - blue) * per_chroma,
        torch.where(value == green, 2 + (blue - red) * per_chroma, 4 + (red - green) * per_chroma),
    )
    hue += 6 * turns[:, None] + 6  # Positive, so that fmod is the remainder.
    turned = torch.empty_like(planes)
    for channel, n in enumerate((5, 3, 1)):
        k = (hue + n).fmod_(6)
        torch.addcmul(value, chroma, torch.minimum(k, 4 - k).clamp_(0, 1), value=-1, out=turned[:, channel])
    return turned


def _blur(out: Float32[Tensor, "B 3 s s"], sigma_px: Float32[Tensor, "B"]) -> Float32[Tensor, "B 3 s s"]:
    """Gaussian blur of each image, borders mirrored; an image with sigma 0 stays."""
    if out.device.type == "cpu":  # Here a data-dependent choice costs nothing, and most of view 2 is not blurred.
        chosen = sigma_px.nonzero()[:, 0]
        if len(chosen) < len(out):
            return out if len(chosen) == 0 else out.index_copy(0, chosen, _blur_all(out[chosen], sigma_px[chosen]))
    return _blur_all(out, sigma_px)


def _blur_all(out: Float32[Tensor, "B 3 s s"], sigma_px: Float32[Tensor, "B"]) -> Float32[Tensor, "B 3 s s"]:
    weights = blur_matrix(sigma_px, out.shape[2])
    return _along_rows(_along_rows(out, weights).transpose(2, 3), weights).transpose(2, 3)


def blur_matrix(sigma_px: Float32[Tensor, "B"], size_px: int) -> Float32[Tensor, "B s s"]:
    """Gaussian weights of an axis, edge pixels mirrored without being doubled; rows sum to 1; sigma 0 is the identity.

    Gaussian weights depend on whole distances alone: one exponential a distance, then looked up.
    """
    place = torch.arange(size_px, device=sigma_px.device)
    to, source = place[:, None], place[None, :]
    precision = 0.5 / sigma_px.clamp_min(1e-3).square()
    by_distance = torch.exp(-torch.arange(2 * size_px, device=sigma_px.device).square() * precision[:, None])

    def at(distance: Int64[Tensor, "s s"]) -> Float32[Tensor, "B s s"]:
        return by_distance.index_select(1, distance.flatten()).view(-1, size_px, size_px)

    # A source pixel is met directly, mirrored at the first pixel, and mirrored at the last; edges are their own mirror.
    weights = at((to - source).abs())
    weights += at(to + source) * (source > 0)
    weights += at(2 * (size_px - 1) - to - source) * (source < size_px - 1)
    return weights / weights.sum(2, keepdim=True)


def normalise(images: UInt8[Tensor, "B S S 3"], mean: Rgb, std: Rgb) -> Float32[Tensor, "B 3 S S"]:
    """Pixels in 0 to 1, less ``mean``, over ``std``; channels first in shape, last in memory."""
    pixels = images.float() / 255
    return ((pixels - pixels.new_tensor(mean)) / pixels.new_tensor(std)).permute(0, 3, 1, 2)
