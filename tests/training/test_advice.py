"""What a profile says to change: each rule on both sides of its threshold, with the key that it names."""

from typing import Any

import pytest
from tests.conftest import tiny_recipe

from byolt.recipe.schema import Recipe
from byolt.training.advice import NOTHING, Facts, advice
from byolt.training.rehearsal import PHASES

CPU = Facts("cpu", cores=4, threads=4)
GPU = Facts("cuda", cores=16, threads=8, has_bf16=True)
QUIET = dict.fromkeys((*PHASES, "host"), 0.0) | {"forward": 0.4, "backward": 0.6}


def said(facts: Facts = CPU, recipe: Recipe | None = None, **shares: float) -> str:
    """All sentences, as one text."""
    return "\n".join(advice(QUIET | shares, recipe or tiny_recipe(), facts))


@pytest.mark.parametrize("facts", [CPU, GPU])
def test_where_nothing_is_to_change_that_is_said(facts: Facts) -> None:
    assert said(facts) == NOTHING


def test_without_a_profile_nothing_is_said() -> None:
    assert advice({}, tiny_recipe(), CPU) == []


# Share, where, and what the sentence names; at the threshold itself nothing is said.
RULES: list[tuple[dict[str, float], dict[str, float], Facts, str]] = [
    ({"data": 0.10}, {"data": 0.11}, CPU, "machine.threads=3 machine.workers=1"),
    ({"data": 0.10}, {"data": 0.11}, GPU, "machine.workers=2"),
    ({"data": 0.10}, {"data": 0.11}, GPU._replace(streamed_gb=11.2), "data.cache_budget_gb=12"),
    ({"views": 0.25}, {"views": 0.26}, GPU, "larger optim.batch_size (another"),
    ({"host": 0.20}, {"host": 0.21}, GPU, "machine.compile=true"),
    ({"host": 0.20}, {"host": 0.21}, CPU, "larger optim.batch_size (another"),
    ({"optimizer": 0.15, "target": 0.10}, {"optimizer": 0.15, "target": 0.11}, CPU, "larger optim.batch_size"),
    ({"host": 0.20}, {"host": 0.21}, CPU._replace(largest_batch=512), "optim.batch_size, up to 512 (another"),
]


@pytest.mark.parametrize(("below", "above", "facts", "key"), RULES)
def test_a_share_above_its_threshold_names_the_key(
    below: dict[str, float], above: dict[str, float], facts: Facts, key: str
) -> None:
    assert said(facts, **below) == NOTHING
    assert key in said(facts, **above)


@pytest.mark.parametrize(
    ("sections", "facts", "key"),
    [
        ({"precision": "fp32"}, GPU, "machine.precision=auto"),
        ({"channels_last": False}, GPU, "machine.channels_last=true"),
        ({"channels_last": False}, CPU, "machine.channels_last=true"),
        ({}, CPU._replace(threads=5), "machine.threads=4"),
        ({}, CPU._replace(threads=1), "3 of 4 cores idle: machine.threads=4"),
    ],
)
def test_a_setting_that_is_in_the_way_is_named(sections: dict[str, Any], facts: Facts, key: str) -> None:
    assert key in said(facts, tiny_recipe(machine=sections))


@pytest.mark.parametrize(
    ("sections", "facts"),
    [
        ({"precision": "fp32"}, GPU._replace(has_bf16=False)),
        ({"precision": "fp32"}, CPU),
        ({"precision": "bf16"}, GPU),
        ({"workers": 3}, CPU._replace(threads=1)),
        ({}, GPU._replace(threads=1)),
    ],
)
def test_a_setting_that_fits_is_left_alone(sections: dict[str, Any], facts: Facts) -> None:
    assert said(facts, tiny_recipe(machine=sections)) == NOTHING


def test_workers_are_proposed_by_the_wait_and_no_more_than_the_free_cores() -> None:
    assert "machine.workers=8" in said(GPU, data=0.4)  # 0.4 / 0.05
    assert "machine.workers=15" in said(GPU, data=0.9)  # 16 cores, one of them drives the GPU.
    assert "machine.workers=14" in said(GPU, tiny_recipe(machine={"workers": 12}), data=0.1001)
    assert "machine.workers=15" in said(GPU, tiny_recipe(machine={"workers": 12}), data=0.5)


def test_squares_much_wider_than_the_views_are_named() -> None:
    wide = {"image_size_px": 16, "store_size_px": 25}
    assert "data.store_size_px=16" in said(CPU, tiny_recipe(data=wide), views=0.26)
    assert said(CPU, tiny_recipe(data=wide | {"store_size_px": 24}), views=0.26) == NOTHING  # 1.5 times.


@pytest.mark.parametrize(("size_px", "named"), [(63, False), (64, True)])
def test_albumentations_is_named_on_a_cpu_from_64_px_on(size_px: int, named: bool) -> None:
    recipe = tiny_recipe(data={"image_size_px": size_px})
    assert ("views.backend=albumentations" in said(CPU, recipe, views=0.3)) == named
    assert "albumentations" not in said(GPU, recipe, views=0.3)


def test_compile_is_not_named_where_it_is_on_nor_on_a_cpu() -> None:
    assert "machine.compile" not in said(GPU, tiny_recipe(machine={"compile": True}), host=0.5)
    assert "machine.compile" not in said(CPU, host=0.5)


def test_the_largest_share_comes_first() -> None:
    sentences = advice(QUIET | {"data": 0.3, "host": 0.4}, tiny_recipe(), GPU)
    assert [sentence.split()[0] for sentence in sentences] == ["the", "waiting"]
