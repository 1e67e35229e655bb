"""What views are drawn by: the keys, the corners of a crop, and boxes that do not fit."""

import torch
from tests.views.test_batched import UNIT, photos
from torch import Tensor

from byolt.recipe.views import View, Views
from byolt.views import batched_views
from byolt.views.parameters import draw_parameters


def test_views_depend_on_seed_epoch_image_and_view_alone() -> None:
    images, index = photos(8, 16), torch.arange(8)

    def made(images: Tensor = images, index: Tensor = index, epoch: int = 3, seed: int = 5) -> tuple[Tensor, Tensor]:
        return batched_views(images, index, epoch=epoch, seed=seed, views=Views(), size_px=16, **UNIT)

    first, second = made()
    again = made(images[[6, 2]], index[[6, 2]])
    assert torch.allclose(again[0], first[[6, 2]], atol=1e-6)
    assert torch.allclose(again[1], second[[6, 2]], atol=1e-6)
    for other in (second, made(epoch=4)[0], made(seed=6)[0], made(index=index + 8)[0]):
        assert (other - first).abs().mean((1, 2, 3)).min() > 0.01


def test_each_image_gets_its_own_parameters() -> None:
    p = draw_parameters(View(), seed=0, epoch=0, index=torch.arange(100), view_number=1, source_px=64)
    for name in ("brightness", "contrast", "saturation", "hue"):
        drawn = getattr(p, name)[p.jitter]
        assert len(drawn.unique()) == len(drawn)
    assert len(p.blur_sigma_px.unique()) == 100


def test_corners_are_uniform_over_all_that_keep_the_box_inside() -> None:
    """A box of 9 px in 10 px has two places an axis, each for half of 4,000 images: 2,000 -/+ 4 x 32."""
    view = View(crop_area=(0.81, 0.81), crop_aspect=(1.0, 1.0))
    p = draw_parameters(view, seed=0, epoch=0, index=torch.arange(4000), view_number=1, source_px=10)
    assert set(p.height.tolist()) == set(p.width.tolist()) == {9}
    for corner in (p.top, p.left):
        assert set(corner.tolist()) == {0, 1}
        assert abs(corner.sum().item() - 2000) < 128


def test_a_box_that_never_fits_becomes_the_largest_centred_one() -> None:
    """Aspect 2, area 0.9 of 60 x 60: a width of 80 never fits; the largest box is 60 wide, 30 high, 15 from the top."""
    view = View(crop_area=(0.9, 0.9), crop_aspect=(2.0, 2.0))
    p = draw_parameters(view, seed=0, epoch=0, index=torch.arange(3), view_number=1, source_px=60)
    assert [side.tolist() for side in (p.top, p.left, p.height, p.width)] == [[15] * 3, [0] * 3, [30] * 3, [60] * 3]
