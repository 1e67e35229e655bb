"""Quarter turns: the four positions by value, their frequencies, and both backends and both ways to resize."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import tiny_recipe
from tests.views.test_batched import UNIT, WHOLE, bytes_of, image_of, nothing, photos, replayed_and_of_the_cpu
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from byolt.evaluation.few_label_finetune import turned
from byolt.recipe.identity import result_keys
from byolt.recipe.views import View, Views
from byolt.views import batched_views
from byolt.views.batched import _resize_each, make_view, resize
from byolt.views.hashing import uniform
from byolt.views.parameters import ViewParameters, draw_parameters

STILL = WHOLE.model_dump()
# Of every eight images that are flipped or not, each turn once.
FLIPS, TURNS = torch.arange(8) >= 4, torch.arange(8) % 4


def parameters(side: int, **changes: Any) -> ViewParameters:
    return replace(nothing(8, side), flip=FLIPS, quarter_turns=TURNS, **changes)


def drawn(view: View, count: int, view_number: int = 1) -> ViewParameters:
    index = torch.arange(count)
    return draw_parameters(view, seed=3, epoch=0, index=index, view_number=view_number, source_px=16)


@pytest.mark.parametrize("deep", [False, True])
def test_the_eight_positions_are_those_of_numpy(deep: bool) -> None:
    """np.rot90 turns to the left; a flip comes before it. Of views that are flipped and turned and nothing else."""
    images = photos(8, 16)
    expected = [np.rot90(image[:, ::-1] if flip else image, turn) for image, flip, turn in _each(images)]
    pixels = images.float() / 255 if deep else images
    made = make_view(pixels, parameters(16), WHOLE, size_px=16, **UNIT)
    assert np.array_equal(bytes_of(made), np.stack(expected))
    by_matrices = image_of(resize(pixels, parameters(16), 16))
    assert np.array_equal((by_matrices * 255).round().byte().numpy(), np.stack(expected))
    one = photos(1, 16)[0]
    assert len({np.rot90(side, turn).tobytes() for side in (one, one.flip(1)) for turn in range(4)}) == 8


def _each(images: Tensor) -> "zip[tuple[np.ndarray, bool, int]]":
    return zip(images.numpy(), FLIPS.tolist(), TURNS.tolist(), strict=True)


@pytest.mark.parametrize(("source_px", "size_px"), [(160, 96), (40, 64)])
def test_a_turned_crop_is_the_crop_turned_on_both_ways(source_px: int, size_px: int) -> None:
    """A box that is no square, resized: to the bit on the way that turns pixels, within rounding by matrices."""
    images = photos(8, source_px) // 2 + 64  # Clear of black and white, where a clip of bytes shows.
    box = [torch.full((8,), side) for side in (3, 7, source_px // 3, source_px // 2)]
    p = parameters(source_px, **dict(zip(("top", "left", "height", "width"), box, strict=True)))
    unturned = replace(p, quarter_turns=None)
    for way, atol in ((_resize_each, 0.0), (resize, 2e-5)):
        made, still = image_of(way(images, p, size_px)), image_of(way(images, unturned, size_px))
        expected = torch.stack([torch.rot90(image, int(turn)) for image, turn in zip(still, TURNS, strict=True)])
        torch.testing.assert_close(made, expected, rtol=0, atol=atol)
    ways = [image_of(way(images, p, size_px)) * 255 for way in (resize, _resize_each)]
    assert (ways[0] - ways[1]).abs().max() <= 2.5  # As without turns: rounding to bytes, twice.


@pytest.mark.parametrize("view_number", [1, 2])
def test_turns_are_as_often_as_told_and_each_as_likely(view_number: int) -> None:
    """Of 8,000: 6,000 turned, 2,000 of each, and 1,000 of each of the eight positions; 4 standard errors."""
    p = drawn(View(quarter_turn=0.75), 8000, view_number)
    assert p.quarter_turns is not None
    turns = Counter(p.quarter_turns.tolist())
    assert set(turns) == {0, 1, 2, 3}
    assert all(abs(count - 2000) <= 4 * 38.8 for count in turns.values())
    positions = Counter(zip(p.flip.tolist(), p.quarter_turns.tolist(), strict=True))
    assert len(positions) == 8
    assert all(abs(count - 1000) <= 4 * 29.6 for count in positions.values())
    always = drawn(View(quarter_turn=1.0), 3000).quarter_turns
    assert always is not None
    assert set(always.tolist()) == {1, 2, 3}


def test_albumentations_turns_as_often_and_to_the_same_four_positions() -> None:
    from byolt.views.albumentations_backend import AlbumentationsViews

    image = photos(1, 16)[0].numpy()
    views = Views.model_validate({"backend": "albumentations", "view_1": STILL | {"quarter_turn": 0.6}})
    make = AlbumentationsViews(views, size_px=16, seed=0)
    turns = {np.rot90(image, turn).tobytes(): turn for turn in range(4)}
    found = Counter(turns[make.make(1, image, index, 0)["image"].tobytes()] for index in range(2000))
    assert abs(found[0] - 800) <= 4 * 21.9
    assert all(abs(found[turn] - 400) <= 4 * 17.9 for turn in (1, 2, 3))


def test_without_the_key_nothing_is_drawn_or_computed_and_the_other_draws_are_those_of_before() -> None:
    assert drawn(View(), 4).quarter_turns is None
    index = torch.arange(50)
    assert torch.equal(uniform(1, 2, index, 1, 37)[:, :36], uniform(1, 2, index, 1, 36))
    plain, turning = drawn(View(), 50), drawn(View(quarter_turn=0.75), 50)
    for name, value in vars(plain).items():
        if name != "quarter_turns":
            assert torch.equal(value, getattr(turning, name)), name
    assert not [key for key in result_keys(tiny_recipe()) if key.endswith("quarter_turn")]
    assert result_keys(tiny_recipe(views={"view_1": {"quarter_turn": 0.5}}))["views.view_1.quarter_turn"] == 0.5


def test_turned_views_wait_for_no_gpu() -> None:
    """Traced without data, as if on a GPU: a shape or a branch that depends on data would raise."""
    views = Views.model_validate({"view_1": {"quarter_turn": 0.75}, "view_2": {"quarter_turn": 0.75}})
    with FakeTensorMode():
        images, index = torch.empty(8, 24, 24, 3, dtype=torch.uint8, device="cuda"), torch.arange(8, device="cuda")
        epoch = torch.zeros((), dtype=torch.int64, device="cuda")
        made = batched_views(images, index, epoch=epoch, seed=0, views=views, size_px=16, **UNIT)
    assert [(view.shape, view.is_contiguous(memory_format=torch.channels_last)) for view in made] == [
        ((8, 3, 16, 16), True)
    ] * 2


@pytest.mark.gpu
def test_turned_views_of_a_gpu_are_the_cpus() -> None:
    views = Views.model_validate({"view_1": STILL | {"quarter_turn": 0.75}, "view_2": STILL | {"quarter_turn": 0.5}})
    for found, expected in replayed_and_of_the_cpu(views):
        assert (found - expected).abs().max() * 255 <= 2.5


def test_fine_tuning_with_few_labels_turns_too() -> None:
    """Of 2,000 images, 1,200 turned, 400 of each; without a share nothing is drawn."""
    image = torch.arange(27.0).view(3, 3, 3)
    images, rng = image.expand(2000, 3, 3, 3), np.random.default_rng(0)
    turns = {torch.rot90(image, turn, (1, 2)).numpy().tobytes(): turn for turn in range(4)}
    found = Counter(turns[one.contiguous().numpy().tobytes()] for one in turned(images, rng, 0.6))
    assert abs(found[0] - 800) <= 4 * 21.9
    assert all(abs(found[turn] - 400) <= 4 * 17.9 for turn in (1, 2, 3))
    untouched = np.random.default_rng(5)
    assert turned(images, untouched, 0.0) is images
    assert untouched.random() == np.random.default_rng(5).random()
