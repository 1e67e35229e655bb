"""Sets that are streamed: read when asked for, damaged images replaced by a rule, the limit, the fingerprint."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import tiny_recipe
from tests.data.test_store import folder, opened

from byolt.data import FolderSource
from byolt.data.sampler import BatchSampler
from byolt.data.source import Pixels
from byolt.training.loader import view_stream
from byolt_export.errors import InputError


def test_streamed_images_are_the_cached_ones(tmp_path: Path) -> None:
    source = FolderSource(folder(tmp_path / "images", size_px=11))
    cached, streamed = opened(source, tmp_path), opened(source, tmp_path, budget_gb=0)
    assert streamed.images is None
    order = np.array([5, 2, 0])
    np.testing.assert_array_equal(streamed.batch(order), cached.batch(order))


class Counted(FolderSource):
    """A folder that counts what is read of it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[int] = []

    def read(self, index: int, at_least_px: int | None = None) -> Pixels:
        self.reads.append(index)
        return super().read(index, at_least_px)

    def digest(self, index: int) -> bytes:
        self.reads.append(index)
        return super().digest(index)


def test_a_streamed_set_is_not_read_before_its_images_are_asked_for(tmp_path: Path) -> None:
    source = Counted(folder(tmp_path / "images"))
    store = opened(source, tmp_path, budget_gb=0)
    assert (len(store), source.reads) == (6, [])
    assert not (tmp_path / "cache").exists()
    store.batch(np.array([4, 1]))
    assert source.reads == [4, 1]
    opened(source, tmp_path)  # The counter counts: each image's digest and pixels.
    assert sorted(source.reads[2:]) == sorted([*range(6), *range(6)])


def damaged(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).write_bytes(b"no image")
    return root


def test_in_place_of_a_damaged_image_comes_the_next_one_of_its_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path / "images", images=8)  # class0: 0, 2, 4, 6; class1: 1, 3, 5, 7
    whole = FolderSource(root)
    expected = np.stack([whole.read(k) for k in range(8)])
    source = Counted(damaged(root, "class0/2.bmp", "class0/6.bmp", "class1/1.bmp", "class1/3.bmp"))
    store = opened(source, tmp_path, budget_gb=0, limit=0.5)
    shown = [0, 2, 2, 0, 6, 6, 6, 7]  # 6.bmp is the last of its class: after it comes the first, not class1.
    with caplog.at_level(logging.WARNING, "byolt"):
        for numbers in (np.arange(8), np.arange(8)[::-1]):
            np.testing.assert_array_equal(store.batch(numbers), expected[np.array(shown)[numbers]])
        again = opened(source, tmp_path, budget_gb=0, limit=0.5)
        np.testing.assert_array_equal(again[4], expected[6])
    assert len(store) == 8
    assert store.labels is not None
    assert store.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    told = [record.getMessage().partition(" cannot")[0] for record in caplog.records]  # Each once, in both stores.
    names = ("class0/2.bmp", "class0/6.bmp", "class1/1.bmp", "class1/3.bmp")
    assert told == [f"left out: image {root}/{name}" for name in names]
    assert source.reads.count(1) == 1  # NamedSet to be damaged, it is not opened again.


def test_in_a_set_without_labels_the_next_image_of_all_comes_and_after_the_last_the_first(tmp_path: Path) -> None:
    root = tmp_path / "images"
    (folder(root) / "class1").rename(root / "class0" / "more")  # 0.bmp, 2.bmp, 4.bmp, more/1.bmp, 3.bmp, 5.bmp
    whole = FolderSource(root)
    assert whole.labels is None
    expected = np.stack([whole.read(k) for k in range(6)])
    store = opened(FolderSource(damaged(root, "class0/4.bmp", "class0/more/5.bmp")), tmp_path, budget_gb=0, limit=0.5)
    np.testing.assert_array_equal(store.batch(np.arange(6)), expected[[0, 1, 3, 3, 4, 0]])


def test_a_streamed_set_ends_with_one_sentence_when_its_damaged_files_are_surely_above_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = damaged(folder(tmp_path / "images", images=20), "class0/0.bmp", "class0/2.bmp", "class0/6.bmp")
    store = opened(FolderSource(root), tmp_path, budget_gb=0, limit=0.1)
    first = [int(np.argmax([store.path(k).endswith(f"/{name}.bmp") for k in range(20)])) for name in (0, 2, 6)]
    store.batch(np.array(first[:1]))  # One damaged of two read, but of twenty in all.
    store.batch(np.array(first[:2]))
    store.batch(np.array(first[:2]))  # The same two again are no more files.
    with pytest.raises(
        InputError,
        match=rf"^3 of 20 images of folder {root} cannot be read, more than data\.corrupt_limit 0\.1 allows; "
        r"the last: image .*class0/6\.bmp cannot be read: [^\n]*; see byolt data check$",
    ):
        store[first[2]]
    assert len(caplog.records) == 3


def test_a_class_without_a_readable_image_ends_a_streamed_set(tmp_path: Path) -> None:
    root = damaged(folder(tmp_path / "images"), *(f"class0/{k}.bmp" for k in (0, 2, 4)))
    store = opened(FolderSource(root), tmp_path, budget_gb=0, limit=0.5)
    store.batch(np.arange(3, 6))
    with pytest.raises(InputError, match=r"2\.bmp cannot be read, nor can any image that could take its place; "):
        store[1]


@pytest.mark.parametrize("limit", [0, 1])
def test_a_streamed_set_of_damaged_images_alone_is_refused_whatever_the_limit(tmp_path: Path, limit: float) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    store = opened(FolderSource(tmp_path / "images"), tmp_path, budget_gb=0, limit=limit)
    with pytest.raises(InputError, match="1 of 1 images"):
        store.batch(np.array([0]))


def view_batches(root: Path, tmp_path: Path, *, workers: int, start: int = 0) -> list[torch.Tensor]:
    store = opened(FolderSource(root), tmp_path, size_px=16, budget_gb=0, limit=0.2)
    recipe = tiny_recipe(machine={"workers": workers})
    stream = view_stream(BatchSampler(len(store), 8, 3, seed=0, start_step=start), store, recipe, torch.device("cpu"))
    return [torch.stack(views) for _, views in stream]


def test_damaged_images_leave_the_batches_the_same_with_workers_and_from_any_step(tmp_path: Path) -> None:
    whole = folder(tmp_path / "images", images=32, size_px=16)
    undamaged = view_batches(whole, tmp_path, workers=0)
    root = damaged(whole, "class0/4.bmp", "class0/6.bmp", "class1/31.bmp")
    straight = view_batches(root, tmp_path, workers=0)
    assert len(straight) == 12
    assert any(not torch.equal(*pair) for pair in zip(straight, undamaged, strict=True))
    with_workers, resumed = view_batches(root, tmp_path, workers=2), view_batches(root, tmp_path, workers=2, start=5)
    assert all(torch.equal(*pair) for pair in zip(straight, with_workers, strict=True))
    assert all(torch.equal(*pair) for pair in zip(straight[5:], resumed, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_sentence_of_the_limit_comes_from_a_worker_too(tmp_path: Path, workers: int) -> None:
    root = damaged(folder(tmp_path / "images", images=32), *(f"class0/{k}.bmp" for k in range(0, 32, 2)))
    with pytest.raises(InputError, match=r"^7 of 32 images [^\n]*; see byolt data check$"):  # 0.2 of 32 is 6.4.
        view_batches(root, tmp_path, workers=workers)


def test_the_fingerprint_of_a_streamed_set_is_of_names_and_sizes_and_never_that_of_a_cached_one(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")

    def streamed(size_px: int = 8) -> str:
        return opened(FolderSource(root), tmp_path, size_px=size_px, budget_gb=0).fingerprint

    before = streamed()
    assert before == hashlib.sha256(f"{FolderSource(root).fingerprint} unread".encode()).hexdigest()
    assert streamed(size_px=4) == before
    assert opened(FolderSource(root), tmp_path).fingerprint != before
    path = root / "class1" / "3.bmp"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # As many bytes: nothing reads them.
    assert streamed() == before
    path.rename(path.with_name("9.bmp"))
    assert streamed() != before
