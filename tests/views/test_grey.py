"""Views of grey images: one channel gives what three equal ones do, and colour jitter makes no colour."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.views.test_batched import photos

from byolt.recipe.views import View
from byolt.views import in_unit_range, normalise
from byolt.views.batched import make_view, resize
from byolt.views.parameters import draw_parameters

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
STRONG = View(jitter=1, hue=0.1, saturation=0.4, grey=0.5, blur=0.5, blur_sigma_px=(0.1, 2.0), solarize=0.3)
SAME = 2e-6  # Of values in 0 to 1: 601's weights add up to 1 but for rounding.


@pytest.fixture(scope="module")
def grey() -> torch.Tensor:
    return photos(12, 24)[..., :1].contiguous()


def test_no_colour_comes_of_grey(grey: torch.Tensor) -> None:
    p = draw_parameters(STRONG, seed=1, epoch=0, index=torch.arange(12), view_number=1, source_px=24)
    view = make_view(grey.expand(-1, -1, -1, 3), p, STRONG, size_px=16, **UNIT)
    assert float((view - view[:, :1]).abs().max()) < SAME
    other = replace(p, hue=p.hue + 0.3, saturation=p.saturation * 0.2, grey=~p.grey)
    again = make_view(grey.expand(-1, -1, -1, 3), other, STRONG, size_px=16, **UNIT)
    assert float((view - again).abs().max()) < SAME  # Hue, saturation and grey say nothing.
    assert (
        float((view - make_view(grey.expand(-1, -1, -1, 3), p, View(jitter=0), size_px=16, **UNIT)).abs().max()) > 0.1
    )


def test_one_channel_gives_what_three_equal_ones_do(grey: torch.Tensor) -> None:
    p = draw_parameters(STRONG, seed=2, epoch=0, index=torch.arange(12), view_number=1, source_px=24)
    one = make_view(grey, p, STRONG, size_px=16, mean=MEAN, std=STD)
    three = make_view(grey.expand(-1, -1, -1, 3), p, STRONG, size_px=16, mean=MEAN, std=STD)
    assert one.shape == (12, 3, 16, 16)
    assert one.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(one, three, atol=1e-5, rtol=0)


def test_12_bits_are_kept_through_a_view() -> None:
    # A crop of a flat image at its own level, one of 4,096 apart from its neighbour: 1 / 4095 of a step.
    levels = torch.from_numpy(np.array([1000, 1001, 4095], np.uint16))[:, None, None, None].expand(3, 20, 20, 1)
    view = View(jitter=0, grey=0, blur=0, solarize=0)
    p = draw_parameters(view, seed=0, epoch=0, index=torch.arange(3), view_number=1, source_px=20)
    made = make_view(in_unit_range(levels, 4095), p, view, size_px=8, **UNIT)
    for row, value in zip(made, (1000 / 4095, 1001 / 4095, 1.0), strict=True):
        torch.testing.assert_close(row, torch.full((3, 8, 8), value), atol=1e-6, rtol=0)
    # The device's way of resizing gives the same.
    lines = resize(in_unit_range(levels, 4095), p, 8)
    torch.testing.assert_close(lines[1], torch.full((8, 1, 8), 1001 / 4095), atol=1e-6, rtol=0)


def test_normalisation_divides_by_white() -> None:
    images = torch.from_numpy(np.array([0, 1365, 4095], np.uint16))[None, None, :, None].expand(1, 3, 3, 1)
    found = normalise(images, MEAN, STD, 4095)
    assert found.shape == (1, 3, 3, 3)
    expected = [[(x - mean) / std for x in (0, 1 / 3, 1)] for mean, std in zip(MEAN, STD, strict=True)]
    torch.testing.assert_close(found[0, :, 1], torch.tensor(expected))
    with pytest.raises(AssertionError, match="the white has to be told"):
        normalise(images, MEAN, STD)
