import logging
import os
import pickle
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from byolt.data import FolderSource, ImageStore, open_store, progress
from byolt.data.source import ArraySource, ImageSource, PartOf
from byolt_export.errors import ByoltError, InputError
from byolt_export.runtime.resize import to_square


def folder(root: Path, images: int = 6, size_px: int = 8) -> Path:
    """Random BMP files (so all of one size in bytes) in two classes, in turn."""
    random = np.random.default_rng(0)
    for k in range(images):
        path = root / f"class{k % 2}" / f"{k}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)).save(path)
    return root


def opened(
    source: ImageSource, tmp_path: Path, *, size_px: int = 8, budget_gb: float = 1, limit: float = 0
) -> ImageStore:
    return open_store(source, size_px, "crop", budget_gb=budget_gb, cache_dir=tmp_path / "cache", corrupt_limit=limit)


def test_a_square_of_the_right_size_is_left_alone_and_a_crop_is_the_centre() -> None:
    pixels = np.arange(4 * 7 * 3, dtype=np.uint8).reshape(4, 7, 3)
    np.testing.assert_array_equal(to_square(pixels[:, :4], 4, "crop"), pixels[:, :4])
    np.testing.assert_array_equal(to_square(pixels, 4, "crop"), pixels[:, 1:5])  # (7 - 4) // 2 = 1
    np.testing.assert_array_equal(to_square(pixels.swapaxes(0, 1), 4, "crop"), pixels[:, 1:5].swapaxes(0, 1))


def test_scaling_is_antialiased_bilinear() -> None:
    # Halved: a triangle of half-width 2 around 1.0 weighs the pixels at 0.5, 1.5, 2.5 by 3/4, 3/4, 1/4.
    # (3a + 3b + c) / 7 = (0 + 210 + 140) / 7 = 50; the other side (b + 3c + 3d) / 7 = (70 + 420 + 210) / 7 = 100.
    row = np.array([0, 70, 140, 70], np.uint8)
    pixels = np.broadcast_to(row[None, :, None], (4, 4, 3))
    np.testing.assert_array_equal(to_square(pixels, 2, "crop")[:, :, 0], [[50, 100], [50, 100]])
    # Squash: the same row in an image twice as wide as high, so only the width is halved.
    np.testing.assert_array_equal(to_square(pixels[:2], 2, "squash")[:, :, 0], [[50, 100], [50, 100]])


def test_the_store_holds_the_decoded_images_in_order(tmp_path: Path) -> None:
    source = FolderSource(folder(tmp_path / "images"))
    store = opened(source, tmp_path)
    expected = np.stack([source.read(k) for k in range(6)])
    assert store.images is not None
    np.testing.assert_array_equal(store.images, expected)
    np.testing.assert_array_equal(store.batch(np.array([4, 0, 4])), expected[[4, 0, 4]])
    np.testing.assert_array_equal(store[3], expected[3])
    assert store[3].flags.writeable  # torch.from_numpy warns otherwise
    assert store.labels is not None
    assert store.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert store.path(3).endswith("class1/1.bmp")


def test_the_second_time_no_image_is_opened(tmp_path: Path) -> None:
    source = FolderSource(folder(tmp_path / "images"))
    first = opened(source, tmp_path)
    for k in range(len(source)):
        Path(source.path(k)).unlink()
    np.testing.assert_array_equal(opened(source, tmp_path).batch(np.arange(6)), first.batch(np.arange(6)))


def test_a_file_rewritten_with_as_many_bytes_is_decoded_again(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    path = root / "class0" / "0.bmp"
    opened(FolderSource(root), tmp_path)
    size = path.stat().st_size
    Image.new("RGB", (8, 8), (1, 2, 3)).save(path)
    os.utime(path, ns=(0, 1))  # Whatever the clock's grain.
    assert path.stat().st_size == size
    assert opened(FolderSource(root), tmp_path)[0][0, 0].tolist() == [1, 2, 3]


def test_each_size_and_rule_has_its_own_cache(tmp_path: Path) -> None:
    source = FolderSource(folder(tmp_path / "images", size_px=12))
    assert [opened(source, tmp_path, size_px=size)[0].shape for size in (8, 6, 8)] == [(8, 8, 3), (6, 6, 3), (8, 8, 3)]


def test_an_image_cropped_to_the_size_without_scaling_is_kept(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 13, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "wide.png")
    np.testing.assert_array_equal(opened(FolderSource(tmp_path / "images"), tmp_path)[0], pixels[:, 2:10])


def test_unreadable_files_are_told_and_left_out_with_their_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path / "images")
    whole = FolderSource(root)
    expected = np.stack([whole.read(k) for k in range(6)])
    (root / "class0" / "2.bmp").write_bytes(b"no image")
    (root / "class1" / "5.bmp").write_bytes((root / "class1" / "5.bmp").read_bytes()[:90])
    source = FolderSource(root)
    with caplog.at_level(logging.WARNING, "byolt"):
        store = opened(source, tmp_path, limit=0.34)
    assert [record.getMessage().partition(" cannot")[0] for record in caplog.records] == [
        f"left out: image {root}/class0/2.bmp",
        f"left out: image {root}/class1/5.bmp",
    ]
    assert store.images is not None
    assert store.images.shape == (4, 8, 8, 3)
    np.testing.assert_array_equal(store.images, expected[[0, 2, 3, 4]])
    assert store.labels is not None
    assert store.labels.tolist() == [0, 0, 1, 1]
    assert [Path(store.path(k)).name for k in range(4)] == ["0.bmp", "4.bmp", "1.bmp", "3.bmp"]


def test_more_unreadable_files_than_the_limit_are_refused_each_time(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    (root / "class0" / "2.bmp").write_bytes(b"no image")
    for _ in range(2):  # Decoded, and remembered.
        with pytest.raises(
            InputError, match=r"1 of 6 images .* more than data\.corrupt_limit 0\.1 allows; the first: "
        ):
            opened(FolderSource(root), tmp_path, limit=0.1)
    assert len(opened(FolderSource(root), tmp_path, limit=1 / 6)) == 5


def test_no_readable_image_at_all_is_refused_whatever_the_limit(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="1 of 1 images"):
        opened(FolderSource(tmp_path / "images"), tmp_path, limit=1)


def test_a_vanished_file_stops_with_one_sentence_and_is_never_left_out(tmp_path: Path) -> None:
    source = FolderSource(folder(tmp_path / "images"))
    streamed = opened(source, tmp_path, budget_gb=0)
    Path(source.path(2)).unlink()
    with pytest.raises(InputError, match=r"4\.bmp is gone since the folder was listed"):
        streamed.batch(np.arange(6))
    with pytest.raises(InputError, match=r"4\.bmp is gone"):
        opened(source, tmp_path, limit=1)
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_workers_are_sent_the_path_of_the_cache_and_not_its_pixels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    source = FolderSource(folder(tmp_path / "images", images=50, size_px=32))
    store = opened(source, tmp_path, size_px=32)
    sent = pickle.dumps(store)
    assert len(sent) < images.nbytes / 10
    np.testing.assert_array_equal(pickle.loads(sent).batch(np.arange(50)), store.batch(np.arange(50)))


def test_decoding_that_takes_long_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FolderSource(folder(tmp_path / "images"))
    with caplog.at_level(logging.INFO, "byolt"):
        opened(source, tmp_path, size_px=6)
        assert not caplog.records  # Six images take no two seconds.
        monkeypatch.setattr(progress, "QUIET_S", 0)
        monkeypatch.setattr(progress, "EVERY_S", 0)
        opened(source, tmp_path)
        assert caplog.messages == [f"decoding {source.name}: {k}/6 images" for k in range(1, 7)]
        assert [record.share for record in caplog.records] == [k / 6 for k in range(1, 7)]  # type: ignore[attr-defined]
        opened(source, tmp_path)
        assert len(caplog.records) == 6  # Decoded already.


def test_a_cache_larger_than_the_disk_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    one = np.zeros((1, 1024, 1024, 3), np.uint8)
    source = ArraySource("huge", np.broadcast_to(one, (10**9, 1024, 1024, 3)), None, (), "huge")
    with pytest.raises(ByoltError, match=r"cannot be kept in .*GB are needed.*; make room") as fault:
        opened(source, tmp_path, size_px=1024, budget_gb=1e9)
    assert fault.value.exit_code == 1


@pytest.mark.parametrize(("suffix", "left"), [(".json", 0), (".json", 9), (".npy", 0), (".npy", 60), (".npy", 5000)])
def test_a_cache_that_was_cut_is_named_with_its_way_out(tmp_path: Path, suffix: str, left: int) -> None:
    source = ArraySource("some", np.zeros((4, 32, 32, 3), np.uint8), None, (), "some")
    opened(source, tmp_path, size_px=32)
    (cut,) = (tmp_path / "cache").glob(f"*{suffix}")
    os.truncate(cut, left)
    with pytest.raises(InputError, match=rf"{cut} is (empty|damaged); remove it and give the command again"):
        opened(source, tmp_path, size_px=32)
    cut.unlink()
    assert len(opened(source, tmp_path, size_px=32)) == 4


def test_a_write_that_fails_is_one_sentence_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    source = ArraySource("some", np.zeros((100, 32, 32, 3), np.uint8), None, (), "some")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # The cache needs 307,200 bytes.
    try:
        with pytest.raises(ByoltError, match=r"cannot be kept in .*cache \(File too large\); make room"):
            opened(source, tmp_path, size_px=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "cache").iterdir())


def test_parts_of_a_source_have_their_own_cache(tmp_path: Path) -> None:
    whole = FolderSource(folder(tmp_path / "images"))
    first, second = PartOf(whole, np.array([0, 3]), "first"), PartOf(whole, np.array([1, 3]), "second")
    assert len({whole.fingerprint, first.fingerprint, second.fingerprint}) == 3
    np.testing.assert_array_equal(opened(first, tmp_path)[0], whole.read(0))
    np.testing.assert_array_equal(opened(second, tmp_path)[0], whole.read(1))
    assert second.path(1) == whole.path(3)


def test_the_fingerprint_is_of_the_content_on_any_machine(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    first = opened(FolderSource(root), tmp_path)
    shutil.copytree(root, tmp_path / "elsewhere" / "copy", copy_function=shutil.copyfile)  # Other times too.
    elsewhere = FolderSource(tmp_path / "elsewhere" / "copy")
    assert elsewhere.cache_key != first.source.cache_key
    others = [opened(elsewhere, tmp_path / "elsewhere", size_px=size) for size in (4, 8)]
    assert {store.fingerprint for store in others} == {first.fingerprint}
    warm = opened(elsewhere, tmp_path / "elsewhere")
    assert warm.fingerprint == first.fingerprint


def test_an_edited_image_is_another_set_and_the_old_content_the_old_one(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    path = root / "class1" / "3.bmp"
    whole, kept = path.read_bytes(), PartOf(FolderSource(root), np.array([0, 1]), "part")

    def prints() -> tuple[str, str]:
        source = FolderSource(root)
        part = PartOf(source, np.array([0, 4]), "part")  # 3.bmp is the fifth: class0 comes first.
        return opened(source, tmp_path).fingerprint, opened(part, tmp_path).fingerprint

    before = prints()
    untouched = opened(kept, tmp_path).fingerprint
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # One bit of one pixel; the size stays.
    os.utime(path, ns=(0, 1))  # Whatever the clock's grain.
    edited = prints()
    assert edited[0] != before[0]
    assert edited[1] != before[1]
    assert opened(PartOf(FolderSource(root), np.array([0, 1]), "part"), tmp_path).fingerprint == untouched
    path.write_bytes(whole)
    assert prints() == before


def test_an_unreadable_file_counts_by_its_content_and_a_link_to_nothing_by_its_name(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    (root / "class0" / "bad.bmp").write_bytes(b"no image")
    (root / "class0" / "link.bmp").symlink_to(tmp_path / "nowhere")
    first = opened(FolderSource(root), tmp_path, limit=0.5)
    assert len(first) == 6
    (root / "class0" / "bad.bmp").write_bytes(b"no IMAGE")
    os.utime(root / "class0" / "bad.bmp", ns=(0, 1))
    assert opened(FolderSource(root), tmp_path, limit=0.5).fingerprint != first.fingerprint
