"""Views by albumentations: one result whoever makes it, extra transforms by name, and pixels near the batched ones."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import tiny_recipe

from byolt.recipe.views import View, Views
from byolt.views.albumentations_backend import AlbumentationsViews
from byolt.views.batched import make_view
from byolt.views.grid import write_view_grid
from byolt.views.parameters import draw_parameters
from byolt_export.errors import InputError


def views(extra: list[dict[str, Any]] | None = None, **changes: Any) -> Views:
    return Views.model_validate({"backend": "albumentations", "extra": extra or [], **changes})


def image(side: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_a_view_depends_on_its_key_alone() -> None:
    """Not on what was made before, in which object, or in which order."""
    one, other = (AlbumentationsViews(views(), size_px=16, seed=3) for _ in range(2))
    first = {index: one(image(), index, 0) for index in range(6)}
    for index in (5, 0, 3):
        for made, expected in zip(other(image(), index, 0), first[index], strict=True):
            assert np.array_equal(made, expected)
    assert not np.array_equal(*first[0])
    different = [first[1], one(image(), 0, 1), AlbumentationsViews(views(), size_px=16, seed=4)(image(), 0, 0)]
    assert not any(np.array_equal(pair[0], first[0][0]) for pair in different)


def test_numpy_draws_depend_on_the_key_alone_too() -> None:
    """The order of the jitter and GaussNoise come from numpy's generator, which is set back as well."""
    extra = [{"name": "GaussNoise", "args": {"std_range": (0.2, 0.2), "p": 1.0}}]
    one, other = (AlbumentationsViews(views(extra), size_px=16, seed=3) for _ in range(2))
    one(image(), 9, 0)
    assert np.array_equal(one(image(), 1, 0)[0], other(image(), 1, 0)[0])


def test_an_extra_transform_comes_last_on_both_views() -> None:
    still = {"crop_area": (1, 1), "crop_aspect": (1, 1), "flip": 0, "jitter": 0, "grey": 0, "blur": 0, "solarize": 0}
    make = AlbumentationsViews(
        views([{"name": "InvertImg", "args": {"p": 1.0}}], view_1=still, view_2={**still, "solarize": 1.0}),
        size_px=24,
        seed=0,
    )
    view_1, view_2 = make(image(), 0, 0)
    assert np.array_equal(view_1, 255 - image())
    assert np.array_equal(view_2, 255 - np.where(image() >= 128, 255 - image(), image()))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"name": "RandomFogg"},
            "albumentations has no transform 'RandomFogg'; did you mean 'RandomFog'?",
        ),
        ({"name": "Compose"}, "views.extra: albumentations has no transform 'Compose'"),
        ({"name": "CLAHE", "args": {"clip_limt": 4}}, "Argument(s) 'clip_limt' are not valid for transform CLAHE"),
        (
            {"name": "CLAHE", "args": {"clip_limit": -3.0}},
            "CLAHE does not take {'clip_limit': -3.0}: clip_limit",
        ),
        ({"name": "RandomCrop", "args": {"height": 8, "width": 8}}, "only a transform that keeps size and type"),
        ({"name": "ToFloat"}, "makes float32"),
        ({"name": "MaskDropout"}, "views.extra: MaskDropout does not work on an image alone"),
    ],
)
def test_an_extra_transform_that_does_not_fit_is_told(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        AlbumentationsViews(views([extra]), size_px=16, seed=0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("view", "levels"),
    [
        ({"brightness": 0.4}, 1.0),
        ({"contrast": 0.4}, 1.0),
        ({"saturation": 0.4}, 1.0),
        ({"hue": 0.3}, 6.0),  # OpenCV's hue has 180 steps of two degrees.
        ({"grey": 1.0}, 1.0),
        ({"blur": 1.0}, 1.0),
        ({"solarize": 1.0}, 0.0),
        ({"flip": 1.0}, 0.0),
    ],
)
def test_backends_agree_on_each_operation(view: dict[str, Any], levels: float) -> None:
    """One operation alone with the parameters that albumentations drew: the largest difference in levels of 255."""
    still = {
        "crop_area": (1, 1),
        "crop_aspect": (1, 1),
        "flip": 0,
        "grey": 0,
        "blur": 0,
        "solarize": 0,
        "jitter": float(bool({"brightness", "contrast", "saturation", "hue"} & set(view))),
        "brightness": 0,
        "contrast": 0,
        "saturation": 0,
        "hue": 0,
    }
    spec = View.model_validate(still | view)
    make = AlbumentationsViews(views(view_1=spec.model_dump()), size_px=24, seed=0, record=True)
    pixels = image() // 2 + 64  # Clear of black and white, where clips part.
    drawn = make.make(1, pixels, 0, 0)
    applied = dict(drawn["applied_transforms"])
    p = draw_parameters(spec, seed=0, epoch=0, index=torch.zeros(1, dtype=torch.int64), view_number=1, source_px=24)
    for name, value in applied.get("ColorJitter", {}).items():
        if name in view:
            p = replace(p, **{name: torch.tensor([value], dtype=torch.float32)})
    if "GaussianBlur" in applied:
        kernel = applied["GaussianBlur"]["kernel"]
        middle = len(kernel) // 2
        sigma = np.sqrt(0.5 / np.log(kernel[middle] / kernel[middle + 1]))
        p = replace(p, blur_sigma_px=torch.tensor([sigma], dtype=torch.float32))
    made = make_view(torch.from_numpy(pixels)[None], p, spec, size_px=24, mean=(0.0,) * 3, std=(1.0,) * 3)
    parted = np.abs((made[0].permute(1, 2, 0).numpy() * 255).round() - drawn["image"])
    assert parted.max() <= levels


class Squares:
    """Ten images in memory, as a store gives them."""

    def __len__(self) -> int:
        return 10

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([image(16, seed=int(index)) for index in indices])


@pytest.mark.parametrize("backend", ["batched", "albumentations"])
def test_the_grid_shows_the_image_and_the_run_s_own_views(backend: str, tmp_path: Any) -> None:
    recipe = tiny_recipe(views={"backend": backend})
    write_view_grid(tmp_path / "plots" / "views.png", Squares(), recipe)  # type: ignore[arg-type]
    picture = np.asarray(Image.open(tmp_path / "plots" / "views.png"))
    assert picture.shape == (8 * 66, 9 * 66, 3)
    assert np.array_equal(picture[1:65:4, 1:65:4], image(16, seed=0))
    if backend == "albumentations":
        view_1, _ = AlbumentationsViews(recipe.views, size_px=16, seed=recipe.seed)(image(16, seed=9), 9, 1)
        assert np.array_equal(picture[7 * 66 + 1 : 8 * 66 - 1 : 4, 3 * 66 + 1 : 4 * 66 - 1 : 4], view_1)
