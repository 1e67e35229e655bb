"""The stream of batches: its order from any step, and what a fault in a worker becomes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import tiny_recipe

from byolt.data import FolderSource, ImageStore, open_store
from byolt.training.stream import Plan, view_stream
from byolt_export.errors import InputError


def streamed(folder: Path, images: int = 32) -> ImageStore:
    generator = np.random.default_rng(0)
    root = folder / "images"
    root.mkdir()
    for index in range(images):
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / f"{index:02d}.png")
    return open_store(FolderSource(root), 16, "crop", budget_gb=0, cache_dir=folder / "cache", corrupt_limit=0.0)


def test_a_plan_begun_at_any_step_goes_on_with_the_same_batches() -> None:
    whole = [(batch.epoch, batch.indices.tolist()) for batch in Plan(11, 3, 3, seed=4)]
    assert len(whole) == 9
    for start in range(10):
        assert [(b.epoch, b.indices.tolist()) for b in Plan(11, 3, 3, seed=4, start_step=start)] == whole[start:]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("backend", ["batched", "albumentations"])
def test_a_vanished_image_is_one_sentence_from_a_worker_too(tmp_path: Path, workers: int, backend: str) -> None:
    store = streamed(tmp_path)
    recipe = tiny_recipe(machine={"workers": workers}, views={"backend": backend})
    plan = Plan(len(store), 8, 2, seed=0)
    lost = int(list(plan)[-1].indices[0])  # In the last batch of all: an epoch is learned from before it goes.
    stream = view_stream(plan, store, recipe, torch.device("cpu"))
    next(stream)
    Path(store.path(lost)).unlink()
    with pytest.raises(InputError) as fault:
        list(stream)
    assert str(fault.value) == (
        f"image {store.path(lost)} is gone since the folder was listed; put it back, or start again"
    )
