"""The stream of batches: its order from any step, and what a fault in a worker becomes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import tiny_recipe

from byolt.data import FolderSource, ImageStore, open_store
from byolt.data.sampler import BatchSampler, LabelledImages
from byolt.training.loader import view_stream
from byolt_export.errors import InputError


def streamed(folder: Path, images: int = 32) -> ImageStore:
    generator = np.random.default_rng(0)
    root = folder / "images"
    root.mkdir()
    for index in range(images):
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / f"{index:02d}.png")
    return open_store(FolderSource(root), 16, "crop", budget_gb=0, cache_dir=folder / "cache", corrupt_limit=0.0)


def test_a_plan_begun_at_any_step_goes_on_with_the_same_batches() -> None:
    whole = [(batch.epoch, batch.indices.tolist()) for batch in BatchSampler(11, 3, 3, seed=4)]
    assert len(whole) == 9
    for start in range(10):
        assert [(b.epoch, b.indices.tolist()) for b in BatchSampler(11, 3, 3, seed=4, start_step=start)] == whole[
            start:
        ]


def test_a_window_of_a_plan_has_its_batches_and_another_batch_size_the_same_share_of_labels() -> None:
    sampler = two_streams()  # 5 steps an epoch, 3 epochs.
    whole = [batch.indices.tolist() for batch in sampler]
    window = sampler.window(1, 1)
    assert (window.start_step, window.steps, len(window)) == (5, 10, 5)
    assert [batch.indices.tolist() for batch in window] == whole[5:10]
    double = sampler.with_batch_size(16)
    assert double.labelled is not None
    assert (double.steps_per_epoch, double.labelled.per_batch, sampler.batch_size) == (2, 6, 8)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("backend", ["batched", "albumentations"])
def test_a_vanished_image_is_one_sentence_from_a_worker_too(tmp_path: Path, workers: int, backend: str) -> None:
    store = streamed(tmp_path)
    recipe = tiny_recipe(machine={"workers": workers}, views={"backend": backend})
    sampler = BatchSampler(len(store), 8, 2, seed=0)
    lost = int(list(sampler)[-1].indices[0])  # In the last batch of all: an epoch is learned from before it goes.
    stream = view_stream(sampler, store, recipe, torch.device("cpu"))
    next(stream)
    Path(store.path(lost)).unlink()
    with pytest.raises(InputError) as fault:
        list(stream)
    assert str(fault.value) == (
        f"image {store.path(lost)} is gone since the folder was listed; put it back, or start again"
    )


def two_streams(start_step: int = 0, images: int = 40, seed: int = 4) -> BatchSampler:
    labelled = LabelledImages(np.arange(0, images, 4), np.arange(0, images, 4) % 3, per_batch=3)
    return BatchSampler(images, 8, 3, seed=seed, start_step=start_step, labelled=labelled)


def test_a_plan_with_labels_has_as_many_steps_and_begins_each_batch_with_its_labelled_images() -> None:
    batches, plain = list(two_streams()), list(BatchSampler(40, 8, 3, seed=4))
    assert len(batches) == len(plain) == 15
    for batch in batches:
        assert batch.labels is not None
        assert (batch.indices[:3] % 4 == 0).all()
        assert batch.labels[:3].tolist() == [index % 3 for index in batch.indices[:3]]  # The label of the image itself.
        assert batch.labels[3:].tolist() == [-1] * 5
        assert len(batch.indices) == 8


def test_each_labelled_image_comes_once_a_pass_in_an_order_of_its_own() -> None:
    drawn = np.concatenate([batch.indices[:3] for batch in two_streams()])  # 45 draws of 10 images.
    passes = [drawn[start : start + 10].tolist() for start in range(0, 40, 10)]
    assert all(sorted(one) == list(range(0, 40, 4)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    other = np.concatenate([batch.indices[:3] for batch in two_streams(seed=5)])
    assert drawn.tolist() != other.tolist()


def test_unlabelled_images_come_at_most_once_an_epoch() -> None:
    for epoch in range(3):
        seen = np.concatenate([batch.indices[3:] for batch in two_streams() if batch.epoch == epoch])
        assert len(seen) == len(set(seen.tolist())) == 25


def test_a_plan_with_labels_begun_at_any_step_goes_on_with_the_same_batches() -> None:
    def told(start: int) -> list[tuple[list[int], ...]]:
        return [tuple(part.tolist() for part in (b.indices, b.labels, b.view_keys)) for b in two_streams(start)]  # type: ignore[union-attr]

    whole = told(0)
    for start in range(16):
        assert told(start) == whole[start:]


def test_an_image_that_comes_twice_an_epoch_is_seen_in_two_ways(tmp_path: Path) -> None:
    draws = [(batch.epoch, int(draw)) for batch in two_streams() for draw in batch.view_keys]  # type: ignore[union-attr]
    assert len(set(draws)) == len(draws)
    store = streamed(tmp_path, images=40)
    recipe = tiny_recipe()
    seen: dict[tuple[int, int], list[torch.Tensor]] = {}
    sampler = two_streams()
    for batch, (epoch, views) in zip(sampler, view_stream(sampler, store, recipe, torch.device("cpu")), strict=True):
        assert batch.labels is not None
        assert torch.equal(views[2], torch.from_numpy(batch.labels))
        for index, view in zip(batch.indices[:3].tolist(), views[0][:3], strict=True):
            seen.setdefault((epoch, index), []).append(view)
    twice = [views for views in seen.values() if len(views) > 1]
    assert twice
    assert all(not torch.equal(*views[:2]) for views in twice)


def test_other_plans_have_no_labels(tmp_path: Path) -> None:
    sampler = BatchSampler(32, 8, 1, seed=0)
    _, batch = next(view_stream(sampler, streamed(tmp_path), tiny_recipe(), torch.device("cpu")))
    assert len(batch) == 2
