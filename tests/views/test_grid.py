"""The picture of views that a run starts with."""

from pathlib import Path

import numpy as np
from PIL import Image
from tests.conftest import tiny_recipe

from byolt.data.source import ArraySource
from byolt.data.store import open_store
from byolt.views.grid import CELL_PX, write_view_grid


def grid(folder: Path, name: str, **views: object) -> np.ndarray:
    """Cells (rows, columns, side, side, 3): the image, then both views of epochs 0 to 3."""
    recipe = tiny_recipe(
        views={"size_px": 16} | views, schedule={"epochs": 4, "warmup_epochs": 0}, data={"cache_dir": folder}
    )
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    source = ArraySource("some", images, None, (), "some")
    store = open_store(source, 16, "crop", budget_gb=1, cache_dir=folder, corrupt_limit=0)
    write_view_grid(folder / "plots" / name, store, recipe)
    pixels = np.asarray(Image.open(folder / "plots" / name))
    side = CELL_PX + 2
    assert pixels.shape == (8 * side, 9 * side, 3)
    return pixels.reshape(8, side, 9, side, 3).swapaxes(1, 2)


def test_each_epoch_is_shown_at_the_size_of_its_views(tmp_path: Path) -> None:
    late, growing = grid(tmp_path, "late.png"), grid(tmp_path, "growing.png", early_size_px=8, early_share=0.5)
    same = [np.array_equal(late[:, column], growing[:, column]) for column in range(9)]
    assert same == [True] + [False] * 4 + [True] * 4
    cell = growing[0, 1, 1:-1, 1:-1]  # 8 px drawn on 64: blocks of 8 by 8.
    np.testing.assert_array_equal(cell, cell[::8, ::8].repeat(8, 0).repeat(8, 1))
