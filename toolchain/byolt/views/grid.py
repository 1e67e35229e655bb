"""A picture of sample images beside their two views, for the eye, before hours are spent."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from byolt.views.batched import batched_views, in_unit_range
from byolt_export.arrays import as_rgb

if TYPE_CHECKING:
    from byolt.data import ImageStore
    from byolt.recipe.schema import Recipe

ROWS, PAIRS, CELL_PX = 8, 4, 64


def write_view_grid(path: Path, store: "ImageStore", recipe: "Recipe") -> None:
    """Write a PNG of 8 rows: an image, then four pairs of its views as the first four epochs see them."""
    chosen = np.linspace(0, len(store) - 1, min(ROWS, len(store))).astype(np.int64)
    originals = store.batch(chosen)
    columns = [
        as_rgb(originals, recipe.data.white),
        *(view for epoch in range(PAIRS) for view in _views(originals, chosen, epoch, recipe)),
    ]
    rows = [np.concatenate([_cell(column[row]) for column in columns], 1) for row in range(len(chosen))]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


def _views(images: np.ndarray, indices: np.ndarray, epoch: int, recipe: "Recipe") -> list[np.ndarray]:
    if recipe.views.backend == "albumentations":
        from byolt.views.albumentations_backend import AlbumentationsViews

        make = AlbumentationsViews(recipe.views, size_px=recipe.view_size_px, seed=recipe.seed)
        pairs = [make(image, int(index), epoch) for image, index in zip(images, indices, strict=True)]
        return [np.stack(side) for side in zip(*pairs, strict=True)]
    pair = batched_views(
        in_unit_range(torch.from_numpy(images), recipe.data.white),
        torch.from_numpy(indices),
        epoch=epoch,
        seed=recipe.seed,
        views=recipe.views,
        size_px=recipe.view_size_px_of(epoch),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    return [(view * 255).round().byte().permute(0, 2, 3, 1).numpy() for view in pair]


def _cell(image: np.ndarray) -> np.ndarray:
    """An image at the cell's size, with a white margin."""
    scaled = Image.fromarray(image).resize((CELL_PX, CELL_PX), Image.Resampling.NEAREST)
    return np.pad(np.asarray(scaled), ((1, 1), (1, 1), (0, 0)), constant_values=255)
