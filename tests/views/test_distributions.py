"""Both backends draw from one distribution: Kolmogorov-Smirnov on each number, chi-squared on each choice."""

import itertools
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from byolt.recipe.views import View, Views
from byolt.views.albumentations_backend import AlbumentationsViews
from byolt.views.parameters import draw_parameters

IMAGES = 5000
SOURCE_PX = 160
LEVEL = 1e-3  # With 28 checks of equal distributions, one in 36 choices of the seed would fail; this one does not.
NUMBERS = ("area", "aspect", "centre_x", "centre_y", "brightness", "contrast", "saturation", "hue", "blur_sigma_px")
CHOICES = ("flip", "jitter", "grey", "blur", "solarize", "order")
ORDERS = list(itertools.permutations(range(4)))
FINEST_KERNEL_PX = 2 / 7  # Under this sigma, 3.5 sigma reach no neighbour: the kernel is one pixel and tells no sigma.

Drawn = dict[str, np.ndarray]


def from_batched(view: View, number: int) -> Drawn:
    p = draw_parameters(view, seed=1, epoch=2, index=torch.arange(IMAGES), view_number=number, source_px=SOURCE_PX)
    drawn = {
        "area": (p.width * p.height).numpy() / SOURCE_PX**2,
        "aspect": np.log(p.width.numpy() / p.height.numpy()),
        "centre_x": p.left.numpy() + p.width.numpy() / 2,
        "centre_y": p.top.numpy() + p.height.numpy() / 2,
        "blur_sigma_px": p.blur_sigma_px[p.blur_sigma_px > 0].double().numpy().clip(FINEST_KERNEL_PX),
        "blur": p.blur_sigma_px.numpy() > 0,
        "order": np.array([ORDERS.index(tuple(order)) for order in p.rank.argsort(1)[p.jitter].tolist()]),
    }
    for name in ("flip", "jitter", "grey", "solarize"):
        drawn[name] = getattr(p, name).numpy()
    for name in ("brightness", "contrast", "saturation", "hue"):
        drawn[name] = getattr(p, name).numpy()[p.jitter.numpy()]
    return drawn


def from_albumentations(views: Views, number: int) -> Drawn:
    make = AlbumentationsViews(views, size_px=8, seed=1, record=True)
    image = np.zeros((SOURCE_PX, SOURCE_PX, 3), np.uint8)
    applied = [dict(make.make(number, image, index, 2)["applied_transforms"]) for index in range(IMAGES)]
    left, top, right, bottom = np.array([each["RandomResizedCrop"]["crop_coords"] for each in applied]).T
    jitter = [each["ColorJitter"] for each in applied if "ColorJitter" in each]
    drawn = {
        "area": (right - left) * (bottom - top) / SOURCE_PX**2,
        "aspect": np.log((right - left) / (bottom - top)),
        "centre_x": (left + right) / 2,
        "centre_y": (top + bottom) / 2,
        "blur_sigma_px": np.array([sigma_of(each["GaussianBlur"]) for each in applied if "GaussianBlur" in each]),
        "order": np.array([ORDERS.index(tuple(each["order"])) for each in jitter]),
    }
    for name in ("brightness", "contrast", "saturation", "hue"):
        drawn[name] = np.array([each[name] for each in jitter])
    names = {"flip": "HorizontalFlip", "jitter": "ColorJitter", "grey": "ToGray", "blur": "GaussianBlur"}
    for name, transform in {**names, "solarize": "Solarize"}.items():
        drawn[name] = np.array([transform in each for each in applied])
    return drawn


def sigma_of(blur: dict[str, Any]) -> float:
    """The sigma of a Gaussian kernel k, from k(0) / k(1) = exp(1 / (2 sigma^2))."""
    kernel = blur["kernel"]
    middle = len(kernel) // 2
    return math.sqrt(0.5 / math.log(kernel[middle] / kernel[middle + 1])) if middle else FINEST_KERNEL_PX


def p_value(name: str, one: np.ndarray, other: np.ndarray) -> float:
    """How likely two samples differ as much when they have one distribution."""
    if name in NUMBERS:
        return float(stats.ks_2samp(one, other).pvalue)
    values = np.union1d(one, other)
    counts = np.array([[np.sum(side == value) for value in values] for side in (one, other)])
    return float(stats.chi2_contingency(counts).pvalue) if len(values) > 1 else 1.0


@cache
def both(number: int) -> tuple[Drawn, Drawn]:
    views = Views(backend="albumentations")
    return from_batched((views.view_1, views.view_2)[number - 1], number), from_albumentations(views, number)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", [*NUMBERS, *CHOICES])
def test_backends_draw_from_one_distribution(name: str, number: int) -> None:
    batched, albumented = both(number)
    assert p_value(name, batched[name], albumented[name]) > LEVEL


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"hue": 0.05}, "hue"),
        ({"brightness": 0.36}, "brightness"),
        ({"crop_area": (0.12, 1.0)}, "area"),
        ({"crop_aspect": (0.8, 1.25)}, "aspect"),
        ({"blur_sigma_px": (0.1, 1.8)}, "blur_sigma_px"),
        ({"grey": 0.25}, "grey"),
        ({"flip": 0.45}, "flip"),
    ],
)
def test_the_check_sees_a_changed_distribution(change: dict[str, Any], name: str) -> None:
    """Half the hue range, and far smaller changes, fail the same check."""
    _, albumented = both(1)
    changed = from_batched(View(**change), 1)
    assert p_value(name, changed[name], albumented[name]) < LEVEL


@pytest.mark.parametrize("backend", [0, 1])
def test_rates_and_ranges_are_table_6s(backend: int) -> None:
    """Rates within 4 standard errors; ranges filled to within 2 % of their length, and never left."""
    rates = ({"blur": 1.0, "solarize": 0.0}, {"blur": 0.1, "solarize": 0.2})
    ranges = {"brightness": (0.6, 1.4), "contrast": (0.6, 1.4), "saturation": (0.8, 1.2), "hue": (-0.1, 0.1)}
    for number, rate in enumerate(rates, start=1):
        drawn = both(number)[backend]
        for name, expected in {"flip": 0.5, "jitter": 0.8, "grey": 0.2, **rate}.items():
            assert abs(drawn[name].mean() - expected) <= 4 * math.sqrt(expected * (1 - expected) / IMAGES)
        for name, (low, high) in ranges.items():
            assert low - 1e-6 <= drawn[name].min() <= low + 0.02 * (high - low)
            assert high - 0.02 * (high - low) <= drawn[name].max() <= high + 1e-6
        assert 0.07 <= drawn["area"].min() <= 0.1
        assert len(set(drawn["order"].tolist())) == 24


@pytest.mark.parametrize("backend", [0, 1])
def test_choices_are_independent_of_each_other_and_of_the_other_view(backend: int) -> None:
    """Not so where each transform is seeded alike: greyed images would all be flipped."""
    first, second = both(1)[backend], both(2)[backend]
    pairs = [(first[one], first[other]) for one, other in itertools.combinations(("flip", "jitter", "grey"), 2)]
    pairs += [
        (second[one], second[other]) for one, other in itertools.combinations(("flip", "grey", "blur", "solarize"), 2)
    ]
    pairs += [(first[name], second[name]) for name in ("flip", "jitter", "grey")]
    for one, other in pairs:
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / math.sqrt(IMAGES)
    assert abs(np.corrcoef(first["area"], second["area"])[0, 1]) < 4 / math.sqrt(IMAGES)
