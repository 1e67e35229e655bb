"""Views of a whole batch in torch, on whichever device, with per-sample parameters.

Order of the paper's Table 6, and a turn: crop, flip, turn, jitter, grey, blur, solarize. Axes: B images, S side of the
source, s side of the view, in pixels, C channels: 3, or 1 of grey images, which become three equal ones in the last
step. Of those hue, saturation and grey say nothing, and they are left out; the result is that of three equal channels.
Everything linear is one matrix per sample: crop, flip and antialiased resize are one (s, S) matrix per axis, blur one
(s, s) matrix. On the way an image lies as scanlines, (B, y, C, x): a matrix along either axis is then one batched
product without a copy. Views leave channels-last. Only arithmetic touches the pixels: comparisons and ``where`` take 5
to 40 times as long as an addition on a CPU. A GPU is never waited for and a CUDA graph may capture it all; on a CPU,
where a loop and a choice cost little, ``_resize_each``, ``_blur`` and ``_solarize`` skip needless work.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64, UInt, UInt8
from torch import Tensor

from byolt.views.parameters import ViewParameters, draw_parameters

if TYPE_CHECKING:
    from byolt.recipe.views import View, Views

Rgb = tuple[float, float, float]
Pixels = UInt8[Tensor, "B S S C"] | Float32[Tensor, "B S S C"]
"""Bytes, or values in 0 to 1."""

GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as in PIL, torchvision and OpenCV.
BLUR_REACH = 3.5  # A Gaussian ends at this many standard deviations, as in albumentations.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def batched_views(
    images: Pixels,
    index: Int64[Tensor, "B"],
    *,
    epoch: int | Int64[Tensor, ""],
    seed: int,
    views: "Views",
    size_px: int,
    mean: Rgb,
    std: Rgb,
) -> tuple[Float32[Tensor, "B 3 s s"], Float32[Tensor, "B 3 s s"]]:
    """Both views of a batch, normalised, channels-last; the same for the same (seed, epoch, index) always."""
    made = []
    for number, view in enumerate((views.view_1, views.view_2), start=1):
        p = draw_parameters(view, seed=seed, epoch=epoch, index=index, view_number=number, source_px=images.shape[1])
        made.append(make_view(images, p, view, size_px=size_px, mean=mean, std=std))
    return made[0], made[1]


def make_view(
    images: Pixels, p: ViewParameters, view: "View", *, size_px: int, mean: Rgb, std: Rgb
) -> Float32[Tensor, "B 3 s s"]:
    """Apply the parameters. What ``view`` gives no chance at all is not computed."""
    out = (_resize_each if images.device.type == "cpu" else resize)(images, p, size_px)
    if view.jitter > 0 or view.grey > 0:
        out = _recolour(out, p, hue=view.jitter > 0 and view.hue > 0 and images.shape[3] == 3)
    if view.blur > 0:
        out = _blur(out, p.blur_sigma_px, reach_px=int(BLUR_REACH * view.blur_sigma_px[1]))
    if view.solarize > 0:
        out = _solarize(out, p.solarize)
    scale = 1 / _colour(std, out)
    out = torch.addcmul(-_colour(mean, out) * scale, out, scale)
    return out.transpose(1, 2).contiguous(memory_format=torch.channels_last)


def resize(images: Pixels, p: ViewParameters, size_px: int) -> Float32[Tensor, "B s C s"]:
    """Crop, resize, flip and turn each image by its two matrices; scanlines in 0 to 1.

    A turn by 180 degrees reverses both axes; one by 90 to the left reverses the columns, one by 270 the rows, and then
    both axes change places.
    """
    source_px, turns = images.shape[1], p.quarter_turns
    up, left = (None, p.flip) if turns is None else (turns >= 2, p.flip ^ (turns == 1) ^ (turns == 2))
    rows = resize_matrix(p.top, p.height, source_px, size_px, flip=up)
    columns = resize_matrix(p.left, p.width, source_px, size_px, flip=left)
    lines = _warp(_scanlines(images), rows, columns)
    if turns is not None:
        lines = torch.where((turns % 2 == 1)[:, None, None, None], lines.transpose(1, 3), lines).contiguous()
    return lines.clamp_(0, 1)  # Bicubic weights overshoot.


def _resize_each(images: Pixels, p: ViewParameters, size_px: int) -> Float32[Tensor, "B s C s"]:
    """The same, one image at a time, rounded to bytes: at 160 to 96 px it takes an eighth of the matrices' time.

    Of more than 8 bits it is not rounded.
    """
    squares = images.new_empty((len(images), size_px, size_px, images.shape[3]))
    source, target = images.permute(0, 3, 1, 2), squares.permute(0, 3, 1, 2)
    turns = torch.zeros_like(p.top) if p.quarter_turns is None else p.quarter_turns
    boxes = torch.stack([p.top, p.left, p.top + p.height, p.left + p.width, p.flip, turns], 1).tolist()
    for i, (top, left, bottom, right, flip, turn) in enumerate(boxes):
        crop = source[i : i + 1, :, top:bottom, left:right]
        square = F.interpolate(crop, (size_px, size_px), mode="bicubic", antialias=True)
        square = square.flip(3) if flip else square
        target[i : i + 1] = torch.rot90(square, turn, (2, 3)) if turn else square
    lines = _scanlines(squares)
    return lines if images.dtype == torch.uint8 else lines.clamp_(0, 1)


def _scanlines(images: Pixels) -> Float32[Tensor, "B S C S"]:
    lines = images.permute(0, 1, 3, 2)
    if images.dtype != torch.uint8:
        return lines.clone(memory_format=torch.contiguous_format)
    return lines.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _colour(rgb: Rgb, like: Tensor) -> Float32[Tensor, "3 1"]:
    """A colour beside scanlines; filled on the device, since a copy from the host has no place in a CUDA graph."""
    return torch.cat([torch.full((1, 1), channel, device=like.device) for channel in rgb])


def _warp(
    lines: Float32[Tensor, "B S C S"], rows: Float32[Tensor, "B s S"], columns: Float32[Tensor, "B s S"]
) -> Float32[Tensor, "B s C s"]:
    """Each image through its own matrix along y and its own along x."""
    batch, source_px, channels, _ = lines.shape
    size_px = rows.shape[1]
    across = lines.flatten(1, 2) @ columns.transpose(1, 2)
    return (rows @ across.view(batch, source_px, channels * size_px)).view(batch, size_px, channels, size_px)


def resize_matrix(
    start: Int64[Tensor, "B"],
    length: Int64[Tensor, "B"],
    source_px: int,
    size_px: int,
    flip: Bool[Tensor, "B"] | None = None,
) -> Float32[Tensor, "B s S"]:
    """Crop [start, start + length) of an axis and resize it, antialiased bicubic (a = -0.5) as PIL does.

    The filter reaches no pixel outside the crop, is widened by the scale when it shrinks, and its weights sum to 1.
    Keys' kernel without a branch: with t = max(2 - |x|, 0) and u = max(1 - |x|, 0),
    2 w(x) = t^2 (t - 1) + 4 u^2 (1/2 - u).
    """
    length_px = length[:, None, None].float()
    scale = length_px / size_px
    widening = scale.clamp_min(1)
    source = torch.arange(source_px, device=start.device) + 0.5 - start[:, None, None]
    centre = (torch.arange(size_px, device=start.device) + 0.5)[:, None] * scale
    if flip is not None:
        centre = torch.where(flip[:, None, None], length_px - centre, centre)
    t = (2 - (source / widening - centre / widening).abs_()).clamp_min_(0)
    u = (t - 1).clamp_min_(0)
    weights = (t * t).mul_(t - 1).add_((u * u).mul_(0.5 - u), alpha=4)
    weights *= (source + 0.5).clamp_(0, 1) * (length_px + 0.5 - source).clamp_(0, 1)  # 1 in the crop, 0 outside.
    return weights.div_(weights.sum(2, keepdim=True))


def _recolour(lines: Float32[Tensor, "B s C s"], p: ViewParameters, *, hue: bool) -> Float32[Tensor, "B s C s"]:
    """Jitter in each sample's order, then grey, clamped to 0 to 1 once, at the end.

    Without a clamp between them, brightness b, contrast c, saturation s and the hue shift H commute, but for the grey g
    that saturation mixes in and the mean grey m that contrast keeps: those are taken before or after H, as the order
    says. The four together are then one sum, y = b c (s H(x) + (1 - s) g) + b (1 - c) m.
    Differs: peers clamp after each of the four. On CIFAR-10 with the paper's ranges that parts by 0.4 levels of 255 on
    average, 1.4 % of the values by more than 8, where jitter itself moves them by 22.
    """
    grey = _grey(lines)
    turned = shift_hue(lines, p.hue) if hue else lines
    grey_turned = _grey(turned)
    mean, mean_turned = grey.mean((1, 2)), grey_turned.mean((1, 2))
    early = (p.rank < p.rank[:, HUE:]).float()  # 1 where applied before the hue shift, else 0.
    early_saturation = early[:, SATURATION]

    mean_late = torch.lerp(mean_turned, torch.lerp(mean, mean_turned, p.saturation), early_saturation)
    lift = p.brightness * (1 - p.contrast) * torch.lerp(mean_late, mean, early[:, CONTRAST])
    gain = p.brightness * p.contrast
    of_colour, of_grey = gain * p.saturation, gain * (1 - p.saturation) * early_saturation
    of_turned = gain * (1 - p.saturation) * (1 - early_saturation)
    dropped = p.grey.float()  # Grey of a sum is the sum of greys: what colour had goes to its grey.
    of_colour, of_turned = of_colour * (1 - dropped), of_turned + of_colour * dropped

    shared = torch.addcmul(lift[:, None, None], of_grey[:, None, None], grey)
    shared.addcmul_(of_turned[:, None, None], grey_turned)
    return torch.addcmul(shared[:, :, None], of_colour[:, None, None, None], turned).clamp_(0, 1)


def _grey(lines: Float32[Tensor, "B s C s"]) -> Float32[Tensor, "B s s"]:
    if lines.shape[2] == 1:
        return lines[:, :, 0]
    red, green, blue = lines.unbind(2)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def shift_hue(lines: Float32[Tensor, "B s C s"], turns: Float32[Tensor, "B"]) -> Float32[Tensor, "B s C s"]:
    """Turn the hue by ``turns``, value and chroma kept: the rotation of HSV's hexagon, exact and without a branch.

    With V and m the largest and smallest channel, C = V - m, r = (R - m) / C and q = |G - B| / C, the way along the
    hexagon from red is 3 - q - 3 r + 2 q r sixths of a turn, towards green where G > B: it is q where red is the
    largest, 2 - r where it lies between, 3 - q where it is the smallest.
    """
    red, green, blue = lines.unbind(2)
    low = lines.amin(2)
    chroma = lines.amax(2) - low
    per_chroma = chroma.clamp_min(1e-8).reciprocal_()
    side = green - blue
    q, r = side.abs().mul_(per_chroma), (red - low).mul_(per_chroma)
    way = (3 - q).addcmul_(r, q.mul_(2).sub_(3)).copysign_(side)
    hue = way.div_(6).add_(turns[:, None, None] + 2).frac_().mul_(6)  # In sixths, 0 to 6; 2 turns keep it positive.
    shares = (hue - 3).abs_().sub_(1), 2 - (hue - 2).abs_(), 2 - (hue - 4).abs_()
    # Not into slices of one tensor, which a compiler cannot take as a whole.
    return torch.stack([torch.addcmul(low, chroma, share.clamp_(0, 1)) for share in shares], 2)


def _blur(
    lines: Float32[Tensor, "B s C s"], sigma_px: Float32[Tensor, "B"], reach_px: int
) -> Float32[Tensor, "B s C s"]:
    """Gaussian blur of each image, borders mirrored; an image with sigma 0 stays."""
    if lines.device.type == "cpu":  # Here a data-dependent choice costs nothing, and most of view 2 is not blurred.
        chosen = sigma_px.nonzero()[:, 0]
        if len(chosen) < len(lines):
            weights = blur_matrix(sigma_px[chosen], lines.shape[1], reach_px)
            return lines.index_copy_(0, chosen, _warp(lines[chosen], weights, weights))
    weights = blur_matrix(sigma_px, lines.shape[1], reach_px)
    return _warp(lines, weights, weights)


def _solarize(lines: Float32[Tensor, "B s C s"], chosen: Bool[Tensor, "B"]) -> Float32[Tensor, "B s C s"]:
    """1 - x above one half, where it is the smaller."""
    if lines.device.type == "cpu":
        few = chosen.nonzero()[:, 0].tolist()
        if 2 * len(few) <= len(lines):
            for i in few:
                torch.minimum(lines[i], 1 - lines[i], out=lines[i])
            return lines
    return torch.minimum(lines, torch.where(chosen, 1.0, 3.0)[:, None, None, None] - lines)  # 3 - x never is.


def blur_matrix(sigma_px: Float32[Tensor, "B"], size_px: int, reach_px: int) -> Float32[Tensor, "B s s"]:
    """Gaussian weights of an axis, edges mirrored without doubling the edge pixel; rows sum to 1; sigma 0: identity.

    The Gaussian ends at 3.5 sigma, at ``reach_px`` and at the image's side less 1, whichever is nearest.
    """
    last = size_px - 1
    distance = torch.arange(min(reach_px, last) + 1, device=sigma_px.device)
    kernel = torch.exp(-0.5 * (distance / sigma_px[:, None].clamp_min(1e-3)).square())
    kernel *= distance <= BLUR_REACH * sigma_px[:, None]
    kernel /= 2 * kernel.sum(1, keepdim=True) - kernel[:, :1]
    place = torch.arange(size_px, device=sigma_px.device)
    to, source = place[:, None], place[None, :]
    # A source pixel is met directly, mirrored at the first pixel, and mirrored at the last; edges are their own mirror.
    direct, first = (to - source).abs(), (to + source).masked_fill(source == 0, -1)
    second = (2 * last - to - source).masked_fill(source == last, -1)
    met = (torch.stack([direct, first, second]) == distance[:, None, None, None]).sum(1).float()
    return (kernel @ met.flatten(1)).view(-1, size_px, size_px)


def in_unit_range(images: UInt[Tensor, "B S S C"], white: int) -> Pixels:
    """Images as the views take them: bytes as they are, values of more bits in 0 to 1, of which ``white`` is 1."""
    return images if images.dtype == torch.uint8 else images.float().div_(white)


def normalise(images: UInt[Tensor, "B S S C"], mean: Rgb, std: Rgb, white: int = 255) -> Float32[Tensor, "B 3 S S"]:
    """Pixels in 0 to 1, less ``mean``, over ``std``; channels first in shape, last in memory."""
    assert images.dtype == torch.uint8 or white > 255, "of uint16 the white has to be told"
    pixels = images.permute(0, 3, 1, 2).float().div_(white)
    if images.shape[3] == 1:
        pixels = pixels.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    return pixels.sub_(_colour(mean, pixels)[:, :, None]).div_(_colour(std, pixels)[:, :, None])
