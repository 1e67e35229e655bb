"""Each operation of the batched views against PIL, colorsys, scipy or sums written out."""

import colorsys
import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import ndimage
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from byolt.recipe.views import View, Views
from byolt.views import batched_views, normalise
from byolt.views.batched import (
    BLUR_REACH,
    _recolour,
    _resize_each,
    _scanlines,
    _warp,
    blur_matrix,
    make_view,
    resize,
    shift_hue,
)
from byolt.views.parameters import ViewParameters, draw_parameters

UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
WHOLE = View(
    crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip=0, jitter=0, grey=0, blur=0, solarize=0
)  # Leaves an image as it is.

# A branch on pixels, or a result that is written into a part of a tensor, would be an error: `fullgraph`.
TRACED = """if True:
    import torch
    from byolt.recipe.views import Views
    from byolt.views import batched_views
    graphs, views = [], Views()
    def taken(graph, inputs):
        graphs.append(graph)
        return graph.forward
    def made(images, index, epoch):
        how = {"seed": 0, "views": views, "size_px": 16, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        return batched_views(images, index, epoch=epoch, **how)
    with torch.device("meta"):
        batch = torch.empty(8, 24, 24, 3, dtype=torch.uint8), torch.arange(8), torch.zeros((), dtype=torch.int64)
    pair = torch.compile(made, backend=taken, fullgraph=True)(*batch)
    assert all(view.shape == (8, 3, 16, 16) for view in pair)
    print(len(graphs))
"""


def photos(count: int, side: int, seed: int = 0) -> Tensor:
    """Smooth noise with edges and saturated corners, uint8 (count, side, side, 3)."""
    noise = np.random.default_rng(seed).normal(size=(count, side, side, 3))
    smooth = ndimage.gaussian_filter(noise, (0, side / 12, side / 12, 0))
    smooth = 128 + 90 * smooth / smooth.std() + 40 * (smooth > 0)
    return torch.from_numpy(smooth.clip(0, 255).astype(np.uint8))


def nothing(count: int, side: int) -> ViewParameters:
    """The parameters of no change at all."""
    return draw_parameters(WHOLE, seed=0, epoch=0, index=torch.arange(count), view_number=1, source_px=side)


def image_of(lines: Tensor) -> Tensor:
    """Scanlines (B, y, 3, x) as (B, y, x, 3)."""
    return lines.permute(0, 1, 3, 2)


def bytes_of(view: Tensor) -> np.ndarray:
    return (view.permute(0, 2, 3, 1) * 255).round().byte().numpy()


def test_no_change_gives_the_image_back() -> None:
    images = photos(4, 24)
    view = make_view(images, nothing(4, 24), WHOLE, size_px=24, **UNIT)
    assert np.array_equal(bytes_of(view), images.numpy())
    assert torch.allclose(image_of(resize(images, nothing(4, 24), 24)) * 255, images.float(), atol=1e-3)


def test_views_are_normalised_and_channels_last() -> None:
    """(51 / 255 - 0.1) / 0.5 = 0.2, (102 / 255 - 0.2) / 0.25 = 0.8, (255 / 255 - 0.5) / 0.125 = 4."""
    images = torch.tensor([51, 102, 255], dtype=torch.uint8).repeat(2, 8, 8, 1)
    statistics = {"mean": (0.1, 0.2, 0.5), "std": (0.5, 0.25, 0.125)}
    for made in (make_view(images, nothing(2, 8), WHOLE, size_px=8, **statistics), normalise(images, **statistics)):
        assert torch.allclose(made[0, :, 3, 4], torch.tensor([0.2, 0.8, 4.0]), atol=1e-6)
        assert made.shape == (2, 3, 8, 8)
        assert made.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("source_px", "size_px"), [(32, 32), (160, 96), (40, 64), (97, 16)])
def test_crop_flip_and_resize_are_pils(source_px: int, size_px: int) -> None:
    """Both ways to resize, on 24 drawn boxes, up and down.

    PIL rounds and clips to bytes after each axis, so the matrices may part by 1.5 levels; torch's byte kernel has
    weights of 16 bits and parts by 2 at most, seldom. Values stay clear of black and white, where PIL's clip shows.
    """
    view, images = View(crop_area=(0.05, 1.0)), photos(24, source_px) // 2 + 64
    p = draw_parameters(view, seed=1, epoch=0, index=torch.arange(24), view_number=1, source_px=source_px)
    assert 0 < p.flip.sum() < 24
    ways = [image_of(way(images, p, size_px)).numpy() * 255 for way in (resize, _resize_each)]
    for i in range(24):
        top, left, height, width = (int(side[i]) for side in (p.top, p.left, p.height, p.width))
        crop = Image.fromarray(images[i].numpy()).crop((left, top, left + width, top + height))
        if p.flip[i]:
            crop = ImageOps.mirror(crop)
        expected = np.asarray(crop.resize((size_px, size_px), Image.Resampling.BICUBIC)).astype(float)
        for made, levels in zip(ways, (1.5, 2.001), strict=True):
            assert np.abs(made[i] - expected).max() <= levels
            assert np.abs(made[i] - expected).mean() <= 0.5


def test_flip_is_exact() -> None:
    images = photos(2, 16)
    p = replace(nothing(2, 16), flip=torch.tensor([True, False]))
    made = bytes_of(make_view(images, p, WHOLE, size_px=16, **UNIT))
    assert np.array_equal(made[0], images[0].numpy()[:, ::-1])
    assert np.array_equal(made[1], images[1].numpy())


def test_hue_is_colorsys() -> None:
    """Random colours, greys, primaries, and colours with two equal channels, turned by -0.5 to 0.5."""
    rng = np.random.default_rng(0)
    colours = np.concatenate(
        [rng.random((400, 3)), list(itertools.product((0, 0.25, 1), repeat=3)), np.full((2, 3), 0.4)]
    )
    turns = rng.uniform(-0.5, 0.5, len(colours))
    made = shift_hue(
        torch.tensor(colours, dtype=torch.float32).view(-1, 1, 3, 1), torch.tensor(turns, dtype=torch.float32)
    )
    for colour, turn, turned in zip(colours, turns, made.view(-1, 3).numpy(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        assert turned == pytest.approx(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), abs=2e-6)


def recoloured(colours: list[list[float]], **changes: Any) -> list[list[float]]:
    """One image of a single row through the colour operations, other parameters at rest."""
    side = len(colours)
    p = replace(nothing(1, 8), **{key: torch.tensor([value]) for key, value in changes.items()})
    lines = torch.tensor(colours).T.expand(1, side, 3, side)
    made: list[list[float]] = _recolour(lines.contiguous(), p, hue=True)[0, 0].T.tolist()
    return made


def test_brightness_by_hand() -> None:
    assert recoloured([[0.2, 0.4, 0.6]], brightness=1.25)[0] == pytest.approx([0.25, 0.5, 0.75])
    assert recoloured([[0.2, 0.4, 0.9]], brightness=1.4)[0] == pytest.approx([0.28, 0.56, 1.0])


def test_contrast_by_hand() -> None:
    """Greys 0.2 and 0.6, mean 0.4: 0.4 + 1.5 (0.2 - 0.4) = 0.1 and 0.4 + 1.5 (0.6 - 0.4) = 0.7."""
    made = recoloured([[0.2] * 3, [0.6] * 3], contrast=1.5)
    assert made == [pytest.approx([0.1] * 3), pytest.approx([0.7] * 3)]


def test_contrast_keeps_the_mean_of_the_weighted_grey() -> None:
    """Green alone: grey 0.587 * 0.5 = 0.2935; 0.5 * (0, 0.5, 0) + 0.5 * 0.2935."""
    assert recoloured([[0, 0.5, 0]], contrast=0.5)[0] == pytest.approx([0.14675, 0.39675, 0.14675], abs=1e-6)


def test_saturation_by_hand() -> None:
    """Grey of (1, 0.5, 0): 0.299 + 0.2935 = 0.5925; half of the colour and half of the grey."""
    assert recoloured([[1, 0.5, 0]], saturation=0.5)[0] == pytest.approx([0.79625, 0.54625, 0.29625])


@pytest.mark.parametrize(("colour", "grey"), [([1.0, 0, 0], 0.299), ([0, 1.0, 0], 0.587), ([0, 0, 1.0], 0.114)])
def test_grey_weights(colour: list[float], grey: float) -> None:
    assert recoloured([colour], grey=True)[0] == pytest.approx([grey] * 3, abs=1e-6)


def test_jitter_follows_its_order() -> None:
    """All 24 orders, with and without grey, against the four steps one after the other in float64."""
    rng = np.random.default_rng(1)
    orders = [*itertools.permutations(range(4)), *itertools.permutations(range(4))]
    count, side = len(orders), 3
    lines = rng.uniform(0.35, 0.6, (count, side, 3, side))  # No step leaves 0 to 1, so that clamping plays no part.
    factors = rng.uniform([0.8, 0.8, 0.6, -0.4], [1.2, 1.2, 1.4, 0.4], (count, 4))
    names = ("brightness", "contrast", "saturation", "hue")
    drawn = {name: torch.tensor(factors[:, i], dtype=torch.float32) for i, name in enumerate(names)}
    rank = torch.tensor(orders).argsort(1)
    p = replace(nothing(count, 8), rank=rank, grey=torch.arange(count) >= 24, **drawn)
    made = _recolour(torch.tensor(lines, dtype=torch.float32), p, hue=True)
    for i, order in enumerate(orders):
        colours = lines[i].transpose(0, 2, 1).reshape(-1, 3)
        for step in order:
            colours = jitter_step(colours, step, factors[i, step])
        if i >= 24:
            colours = np.repeat(colours @ [[0.299], [0.587], [0.114]], 3, axis=1)
        assert image_of(made)[i].reshape(-1, 3).numpy() == pytest.approx(colours, abs=3e-6)


def jitter_step(colours: np.ndarray, step: int, factor: float) -> np.ndarray:
    """Brightness, contrast, saturation or hue of an image's colours (P, 3), as torchvision defines them."""
    grey = (colours @ [0.299, 0.587, 0.114])[:, None]
    if step == 0:
        return colours * factor
    if step == 1:
        return factor * colours + (1 - factor) * grey.mean()
    if step == 2:
        return factor * colours + (1 - factor) * grey
    hsv = [colorsys.rgb_to_hsv(*colour) for colour in colours]
    return np.array([colorsys.hsv_to_rgb((hue + factor) % 1, *rest) for hue, *rest in hsv])


def test_one_clamp_at_the_end_is_near_a_clamp_after_each_step() -> None:
    """The departure from the peers, bounded: under a level on average on saturated images, where jitter moves 20."""
    images = photos(24, 16)
    p = draw_parameters(View(grey=0), seed=0, epoch=0, index=torch.arange(24), view_number=1, source_px=16)
    made = image_of(_recolour(_scanlines(images), p, hue=True))
    clamped = np.empty((24, 256, 3))
    for i in range(24):
        colours = images[i].reshape(-1, 3).double().numpy() / 255
        for step in p.rank[i].argsort().tolist():
            factor = (p.brightness, p.contrast, p.saturation, p.hue)[step][i].item()
            colours = jitter_step(colours, step, factor).clip(0, 1)
        clamped[i] = colours
    moved = np.abs(made.reshape(24, 256, 3).numpy() - images.reshape(24, 256, 3).numpy() / 255).mean() * 255
    parted = np.abs(made.reshape(24, 256, 3).numpy() - clamped).mean() * 255
    assert moved > 15
    assert parted < 3


@pytest.mark.parametrize("sigma_px", [0.3, 0.8, 1.3, 2.0])
def test_blur_of_a_point_is_the_gaussian(sigma_px: float) -> None:
    """exp(-(dx^2 + dy^2) / 2 sigma^2) over its sum, to 3.5 sigma along either axis."""
    lines = torch.zeros(1, 21, 3, 21)
    lines[0, 10, :, 10] = 1
    weights = blur_matrix(torch.tensor([sigma_px]), 21, reach_px=7)
    made = image_of(_warp(lines, weights, weights))[0, ..., 1].double().numpy()
    away = np.arange(21) - 10
    axis = np.exp(-(away**2) / (2 * sigma_px**2)) * (np.abs(away) <= BLUR_REACH * sigma_px)
    assert made == pytest.approx(np.outer(axis, axis) / axis.sum() ** 2, abs=1e-6)


def test_blur_mirrors_at_the_border_as_scipy_does() -> None:
    image = photos(1, 16)[0].double().numpy() / 255
    radius = int(BLUR_REACH * 2.0)
    expected = ndimage.gaussian_filter(image, (2.0, 2.0, 0), mode="mirror", radius=(radius, radius, 0))
    p = replace(nothing(1, 16), blur_sigma_px=torch.tensor([2.0]))
    view = WHOLE.model_copy(update={"blur": 1.0})
    made = make_view((torch.from_numpy(image)[None] * 255).byte(), p, view, size_px=16, **UNIT)
    assert made[0].permute(1, 2, 0).numpy() == pytest.approx(expected, abs=1e-5)


def test_blur_rows_sum_to_one_and_sigma_zero_is_the_identity() -> None:
    """Also at 8 px, where a reach of 7 px meets both borders."""
    weights = blur_matrix(torch.tensor([0.0, 0.1, 0.5, 2.0, 2.0]), 8, reach_px=7)
    assert weights.sum(2) == pytest.approx(torch.ones(5, 8), abs=1e-6)
    assert torch.equal(weights[0], torch.eye(8))
    assert torch.equal(weights[1], torch.eye(8))  # 3.5 * 0.1 px reaches no neighbour.


@pytest.mark.parametrize("further", [False, True])  # Few are taken one by one, many together.
def test_only_chosen_images_are_blurred_and_solarized(further: bool) -> None:
    images = photos(4, 16)
    view = WHOLE.model_copy(update={"blur": 0.5, "solarize": 0.5})
    sigma, solarize = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([False, further, True, True])
    p = replace(nothing(4, 16), blur_sigma_px=sigma, solarize=solarize)
    made = bytes_of(make_view(images, p, view, size_px=16, **UNIT))
    assert np.array_equal(made[0], images[0].numpy())
    assert np.array_equal(made[2], np.asarray(ImageOps.solarize(Image.fromarray(images[2].numpy()), 128)))
    weights = blur_matrix(sigma, 16, reach_px=7)
    alone = image_of(_warp(_scanlines(images), weights, weights)).numpy() * 255
    for i in (1, 3):
        inverted = solarize[i].item() & (alone[i] >= 127.5)
        assert np.abs(made[i] - np.where(inverted, 255 - alone[i], alone[i])).max() <= 0.501


def test_solarize_every_byte() -> None:
    """Below one half it stays, above it is 255 less."""
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    p = replace(nothing(1, 16), solarize=torch.tensor([True]))
    made = bytes_of(make_view(ramp, p, WHOLE.model_copy(update={"solarize": 1.0}), size_px=16, **UNIT))
    assert made[0, :, :, 0].ravel().tolist() == [value if value < 128 else 255 - value for value in range(256)]


def test_a_gpu_is_never_waited_for() -> None:
    """Traced without data, as if on a GPU: a shape or a branch that depends on data would raise."""
    with FakeTensorMode():
        images, index = torch.empty(8, 24, 24, 3, dtype=torch.uint8, device="cuda"), torch.arange(8, device="cuda")
        epoch = torch.zeros((), dtype=torch.int64, device="cuda")
        made = batched_views(images, index, epoch=epoch, seed=0, views=Views(), size_px=16, **UNIT)
    assert [(view.shape, view.device.type) for view in made] == [((8, 3, 16, 16), "cuda")] * 2


@pytest.mark.full  # The compiler's import and trace take 20 s.
def test_a_compiler_takes_both_views_as_one_graph() -> None:
    """Traced without data, in a process that checks no annotation: those checks are no part of the graph."""
    done = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"]


def replayed_and_of_the_cpu(views: Views) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of a CUDA graph, captured once and replayed for another epoch, each with the CPU's."""
    images, index = photos(16, 40), torch.arange(16)
    there: dict[str, Any] = {"views": views, "seed": 1, "size_px": 32, **UNIT}
    inputs, epoch = (images.cuda(), index.cuda()), torch.zeros((), dtype=torch.int64, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        batched_views(*inputs, epoch=epoch, **there)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = batched_views(*inputs, epoch=epoch, **there)
    for number in (0, 7):
        epoch.fill_(number)
        graph.replay()
        expected = batched_views(images, index, epoch=number, **there)
        yield from zip((view.cpu() for view in captured), expected, strict=True)


@pytest.mark.gpu
def test_a_cuda_graph_gives_the_cpus_views() -> None:
    """The same parameters, pixels within the byte rounding of the CPU."""
    for view, reference in replayed_and_of_the_cpu(Views()):
        assert (view - reference).abs().mean() * 255 < 1
