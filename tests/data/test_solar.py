"""The set `solar`: a package of its shape stands in for it, and the real one is asked where it is installed."""

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.tiny_sets import write_solar

import byolt.installed
from byolt.data import open_splits, solar
from byolt.data.solar import Cell, Cells, content_digest, list_digest, strata_of
from byolt.recipe.data import Data
from byolt_export.errors import InputError, MissingPart

SOLAR = Data.model_validate({"name": "solar", "image_size_px": 16})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The `data` folder of an installed package of 96 cells, taken for the right one."""
    folder = write_solar(tmp_path / "packages", 96)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr(solar, "CONTENT", content_digest(folder))
    return folder


def test_cells_have_the_class_of_their_probability_and_a_quarter_of_each_kind_is_held_out(package: Path) -> None:
    splits = open_splits(SOLAR, seed=0)
    assert splits.train is not None
    assert splits.test is not None
    assert splits.learn is splits.train
    assert (len(splits.train), len(splits.test)) == (72, 24)
    kinds: Counter[tuple[int, bool]] = Counter()
    for part in (splits.train, splits.test):
        assert part.classes == ("functional", "defective")
        assert part.labels is not None
        for k in range(len(part)):
            cell = int(Path(part.path(k)).stem.removeprefix("cell"))
            # Probabilities 0 and 1/3 are functional, 2/3 and 1 defective; the grey of an image is its number.
            assert part.labels[k] == (cell % 4 >= 2)
            np.testing.assert_array_equal(part.read(k), np.full((20, 20, 3), cell, np.uint8))
            kinds[cell % 4, cell < 48] += part is splits.test
    assert set(kinds.values()) == {3}  # 12 cells of each of the 8 pairs.


def test_the_split_is_that_of_no_recipes_seed(package: Path) -> None:
    first, second = (open_splits(SOLAR, seed=seed).test for seed in (0, 1))
    assert isinstance(first, Cells)
    assert isinstance(second, Cells)
    assert first.cells == second.cells
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("change", ["label", "image", "more", "none"])
def test_a_package_of_other_content_is_refused(change: str, package: Path) -> None:
    labels, image = package / "labels.csv", package / "images" / "cell0007.png"
    if change == "label":
        labels.write_text(labels.read_text().replace("mono", "poly", 1))
    elif change == "image":
        Image.new("L", (20, 20), 8).save(image)
    elif change == "more":
        (package / "images" / "cell9999.png").write_bytes(image.read_bytes())
    else:
        labels.unlink()
    with pytest.raises(InputError, match=r"elpv-dataset 1\.0\.0\.post1, of which the test images were drawn: pip inst"):
        open_splits(SOLAR, seed=0)


def test_without_the_package_the_line_that_installs_it_and_its_licence_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(byolt.installed, "find_spec", lambda name: None)
    with pytest.raises(MissingPart) as fault:
        open_splits(SOLAR, seed=0)
    assert str(fault.value) == (
        "data.name: solar (CC BY-NC-SA 4.0, not for commercial use): the package elpv_dataset is not installed: "
        "pip install elpv-dataset"
    )


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="pip install elpv-dataset")
def test_the_frozen_split_is_what_the_real_package_gives() -> None:
    splits = open_splits(SOLAR, seed=0)
    train, test = splits.train, splits.test
    assert isinstance(train, Cells)
    assert isinstance(test, Cells)
    assert list_digest(test) == solar.TEST_LIST
    assert [np.bincount(part.labels).tolist() for part in (train, test) if part.labels is not None] == [
        [1352, 615],
        [451, 206],
    ]
    assert test.read(0).shape == (300, 300, 3)
    cells: list[Cell] = sorted([*train.cells, *test.cells])
    held_out = np.bincount(strata_of(cells)[[cells.index(cell) for cell in test.cells]])
    assert len(cells) == 2624
    assert np.abs(held_out - 0.25 * np.bincount(strata_of(cells))).max() <= 0.5
