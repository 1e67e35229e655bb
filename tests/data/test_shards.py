"""Shards of a local folder: what is packed is what is read, in an order that can be gone on with at any place."""

import hashlib
import io
import os
import pickle
import signal
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.conftest import tiny_recipe
from tests.data.shard_folders import IMAGES, SHARD_BYTES, image_folder, number_in, packed_folder

from byolt.data import FolderSource, ImageStore, open_splits, open_store
from byolt.data.folder_check import check_folder
from byolt.data.packing import pack
from byolt.data.sampler import BatchSampler
from byolt.data.shards import open_folder
from byolt.recipe.data import Data
from byolt.recipe.schema import Recipe
from byolt.training.loader import view_stream
from byolt.training.loop import pretrain
from byolt_export.errors import InputError, Stopped


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_folder(tmp_path_factory.mktemp("packed"))


def opened(root: Path, tmp_path: Path, budget_gb: float = 0, limit: float = 0) -> ImageStore:
    source = open_folder(root, tmp_path / "cache")
    return open_store(source, 32, "crop", budget_gb=budget_gb, cache_dir=tmp_path / "cache", corrupt_limit=limit)


def test_what_is_read_is_what_was_packed_byte_for_byte(shards: Path, tmp_path: Path) -> None:
    images, source = FolderSource(shards.parent / "images"), open_folder(shards, tmp_path)
    assert len(source) == len(images) == IMAGES
    assert source.classes == images.classes == ("class 0", "class 1", "class 2")
    assert images.labels is not None
    assert source.labels is not None
    numbers = []
    for k in range(IMAGES):
        name = "/".join(Path(source.path(k)).parts[-2:])
        original = shards.parent / "images" / name
        assert source.content(k) == original.read_bytes()
        assert source.classes[source.labels[k]] == original.parent.name
        numbers.append(number_in(source.read(k)))
    assert sorted(numbers) == list(range(IMAGES))
    paths = [images.path(k) for k in range(IMAGES)]
    packed = [str(shards.parent / "images" / Path(*Path(source.path(k)).parts[-2:])) for k in range(IMAGES)]
    assert sorted(packed) == paths
    assert packed != paths  # A shard is a random sample.


def test_the_files_are_webdatasets(shards: Path) -> None:
    paths = sorted(shards.glob("*.tar"))
    assert [path.name for path in paths] == [f"images-{k:06d}.tar" for k in range(16)]
    keys = []
    for path in paths:
        assert path.stat().st_size <= SHARD_BYTES
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            images, classes = members[::2], members[1::2]
            for image, label in zip(images, classes, strict=True):
                key, _, suffix = image.name.partition(".")
                assert (suffix, label.name) == ("bmp", f"{key}.cls")
                file, text = tar.extractfile(image), tar.extractfile(label)
                assert file is not None
                assert text is not None
                assert int(text.read()) == number_in(np.asarray(Image.open(io.BytesIO(file.read())))) % 3
                keys.append(key)
    assert keys == [f"{k:09d}" for k in range(IMAGES)]


def test_the_same_images_give_the_same_shards(shards: Path, tmp_path: Path) -> None:
    pack(shards.parent / "images", tmp_path / "again", SHARD_BYTES)
    for path in shards.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    first, again = open_folder(shards, tmp_path), open_folder(tmp_path / "again", tmp_path)
    assert first.fingerprint == again.fingerprint
    store, other = opened(shards, tmp_path), opened(tmp_path / "again", tmp_path / "b")
    assert store.fingerprint == other.fingerprint
    pack(shards.parent / "images", tmp_path / "larger", 2 * SHARD_BYTES)
    assert open_folder(tmp_path / "larger", tmp_path).fingerprint != first.fingerprint


def test_shards_are_those_of_every_version(tmp_path: Path) -> None:
    for k in range(6):
        path = tmp_path / "images" / "ab"[k % 2] / f"{k}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([k]) * (300 * k))
    pack(tmp_path / "images", tmp_path / "shards", 6000)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in sorted(tmp_path.glob("shards/*.tar"))]
    assert digests == ["2c0bec8e", "56061b02", "e46162c0", "ae609ed7"]  # Of the first release.


def test_other_content_of_the_same_sizes_is_another_set(shards: Path, tmp_path: Path) -> None:
    source = FolderSource(image_folder(tmp_path / "images"))
    path = Path(source.path(5))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1  # One bit of one pixel.
    path.write_bytes(content)
    pack(source.root, tmp_path / "shards", SHARD_BYTES)
    assert open_folder(tmp_path / "shards", tmp_path).fingerprint != open_folder(shards, tmp_path).fingerprint


def test_images_without_classes_have_no_labels(tmp_path: Path) -> None:
    pack(image_folder(tmp_path / "images", 5, classes=1), tmp_path / "shards", SHARD_BYTES)
    source = open_folder(tmp_path / "shards", tmp_path)
    assert (source.labels, source.classes) == (None, ())
    with tarfile.open(tmp_path / "shards" / "images-000000.tar") as tar:
        assert all(name.endswith(".bmp") for name in tar.getnames())


def streamed(store: ImageStore, plan: BatchSampler, workers: int) -> list[tuple[int, list[Any]]]:
    recipe = tiny_recipe(machine={"workers": workers}, data={"image_size_px": 32})
    return [
        (epoch, [hashlib.sha256(view.contiguous().numpy().tobytes()).hexdigest() for view in views])
        for epoch, views in view_stream(plan, store, recipe, torch.device("cpu"))
    ]


def plan_of(store: ImageStore, start_step: int = 0) -> BatchSampler:
    return BatchSampler(len(store), 8, 2, seed=5, start_step=start_step, order=store.order)


def test_the_stream_is_the_same_with_any_workers_and_from_any_step(shards: Path, tmp_path: Path) -> None:
    store = opened(shards, tmp_path)
    whole = streamed(store, plan_of(store), 0)
    assert len(whole) == 12
    assert streamed(store, plan_of(store), 2) == whole
    assert streamed(store, plan_of(store, start_step=4), 2) == whole[4:]
    assert streamed(store, plan_of(store, start_step=9), 0) == whole[9:]
    cached = opened(shards, tmp_path, budget_gb=1)
    assert cached.images is not None
    assert streamed(cached, plan_of(cached), 0) == whole


def test_each_image_comes_once_an_epoch(shards: Path, tmp_path: Path) -> None:
    store = opened(shards, tmp_path)
    for epoch in (0, 1):
        drawn = np.concatenate([batch.indices for batch in plan_of(store) if batch.epoch == epoch])
        assert sorted(number_in(store[int(k)]) for k in drawn) == list(range(IMAGES))


def test_images_left_out_are_left_out_of_the_order(shards: Path, tmp_path: Path) -> None:
    root = tmp_path / "images"
    image_folder(root, 12)
    (root / "class 0" / "bad.bmp").write_bytes(b"no image")
    pack(root, tmp_path / "shards", SHARD_BYTES)
    store = opened(tmp_path / "shards", tmp_path, budget_gb=1, limit=0.2)
    assert len(store) == 12
    assert sorted(store.order(0, 0).tolist()) == list(range(12))
    assert sorted(number_in(store[int(k)]) for k in store.order(0, 0)) == list(range(12))


def test_a_store_travels_to_a_worker_that_is_spawned(shards: Path, tmp_path: Path) -> None:
    store = opened(shards, tmp_path)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store))[7], store[7])


def recipe_of(root: Path, tmp_path: Path, runs: str, epochs: int = 2) -> Recipe:
    return tiny_recipe(
        machine={"runs_dir": tmp_path / runs, "threads": 1, "workers": 2, "log_every_steps": 1},
        data={"name": "shards", "root": root, "image_size_px": 32, "cache_budget_gb": 0, "cache_dir": tmp_path / "c"},
        schedule={"epochs": epochs, "warmup_epochs": 0},
        optim={"name": "sgd", "batch_size": 8, "base_lr": 0.4, "momentum": 0.9, "weight_decay": 0.0},
    )


def test_a_run_that_was_stopped_in_mid_epoch_ends_with_the_same_weights(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(recipe_of(shards, tmp_path, "whole"))
    recipe = recipe_of(shards, tmp_path, "stopped")
    import byolt.training.logger as logger

    log = logger.RunLogger.log

    def log_and_stop(self: logger.RunLogger, step: int, epoch: int, outcome: Any) -> None:
        log(self, step, epoch, outcome)
        if step == 8:  # Of 6 an epoch.
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(logger.RunLogger, "log", log_and_stop)
        with pytest.raises(Stopped, match="after step 8 of 12"):
            pretrain(recipe)
    (path,) = (tmp_path / "stopped").iterdir()
    resumed = pretrain(recipe, resume=path)
    one, other = (load_file(run.path / "encoder.safetensors") for run in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_test_root_of_shards_or_images_is_the_test_split(shards: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"name": "shards", "root": shards, "image_size_px": 32, "cache_dir": tmp_path / "cache"}
    splits = open_splits(Data.model_validate(keys), seed=0)
    assert splits.learn is splits.train
    assert splits.test is None
    unlabelled = open_splits(Data.model_validate(keys | {"labels": "none"}), seed=0)
    assert (len(unlabelled.learn), unlabelled.train) == (IMAGES, None)
    held_out = image_folder(tmp_path / "held out", 6)
    pack(held_out, tmp_path / "held", SHARD_BYTES)
    for test_root in (held_out, tmp_path / "held"):
        test = open_splits(Data.model_validate(keys | {"test_root": test_root}), seed=0).test
        assert test is not None
        assert (len(test), test.classes) == (6, splits.learn.classes)
    pack(image_folder(tmp_path / "two", 6, classes=2), tmp_path / "fewer", SHARD_BYTES)
    for test_root in (tmp_path / "two", tmp_path / "fewer"):
        fewer = open_splits(Data.model_validate(keys | {"test_root": test_root}), seed=0).test
        assert fewer is not None
        assert fewer.labels is not None
        assert (fewer.classes, fewer.labels.max()) == (splits.learn.classes, 1)
    pack(image_folder(tmp_path / "four", 8, classes=4), tmp_path / "more", SHARD_BYTES)
    for test_root in (tmp_path / "four", tmp_path / "more"):
        with pytest.raises(InputError, match="holds images of class 3, but shards .* none of that class to learn it"):
            open_splits(Data.model_validate(keys | {"test_root": test_root}), seed=0)
    with pytest.raises(InputError, match="is data.root; name separate folders"):
        open_splits(Data.model_validate(keys | {"test_root": shards}), seed=0)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"name": "shards"}, "needs either root, a local folder, or url, and not both"),
        ({"name": "shards", "root": "a", "url": "http://b"}, "needs either root"),
        ({"name": "folder", "root": "a", "url": "http://b"}, "url goes with `name: shards`"),
        ({"name": "shards", "url": "ftp://b"}, "starts with http://, https://, s3://, gs://, file://"),
    ],
)
def test_a_recipe_names_one_place(keys: dict[str, str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Data.model_validate({"image_size_px": 32} | keys)


def test_data_check_takes_shards_and_tells_a_changed_one(shards: Path, tmp_path: Path) -> None:
    pack(shards.parent / "images", tmp_path / "shards", SHARD_BYTES)
    of_shards, of_images = check_folder(tmp_path / "shards"), check_folder(shards.parent / "images")
    assert of_shards.classes == of_images.classes
    assert (of_shards.mean, of_shards.std) == (of_images.mean, of_images.std)
    path = tmp_path / "shards" / "images-000003.tar"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="images-000003.tar was changed since it was packed .*; copy it again"):
        check_folder(tmp_path / "shards")
