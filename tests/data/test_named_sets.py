import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.tiny_sets import STL10_CLASSES, write_cifar, write_stl10
from torchvision import datasets

from byolt.data import open_splits
from byolt.data.named_sets import stl10_folds
from byolt.recipe.data import Data
from byolt_export.errors import InputError


def section(name: str, root: Path, **keys: object) -> Data:
    return Data.model_validate({"name": name, "root": root, "image_size_px": 32} | keys)


def test_stl10_learns_from_train_and_unlabeled_and_reads_columns_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_stl10(tmp_path, monkeypatch, train=20, unlabeled=30, test=10)
    splits = open_splits(section("stl10", tmp_path), seed=0)
    assert splits.train is not None
    assert splits.test is not None
    assert [len(source) for source in (splits.learn, splits.train, splits.test)] == [50, 20, 10]
    assert splits.learn.labels is None
    assert splits.train.classes == STL10_CLASSES
    assert splits.train.labels is not None
    assert splits.train.labels.tolist() == [*range(10), *range(10)]  # the file counts from 1
    unlabeled = np.fromfile(folder / "unlabeled_X.bin", np.uint8)
    image, row, column, channel = 7, 5, 60, 2
    # An image is 3 planes of 96 columns of 96 pixels each.
    stored = unlabeled[image * 3 * 96 * 96 + channel * 96 * 96 + column * 96 + row]
    assert splits.learn.read(20 + image)[row, column, channel] == stored
    np.testing.assert_array_equal(splits.learn.read(19), splits.train.read(19))
    assert splits.learn.path(20 + image) == "stl10 unlabeled, image 7"


def test_the_official_folds_are_indices_into_the_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stl10(tmp_path, monkeypatch)
    folds = open_splits(section("stl10", tmp_path), seed=0).folds
    assert [fold.tolist() for fold in folds] == [[k, k + 10] for k in range(10)]


@pytest.mark.parametrize("text", ["0 1\n" * 9, "0 1\n" * 9 + "0 20\n", "0 1\n" * 9 + "a b\n", None])
def test_damaged_folds_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    path = write_stl10(tmp_path, monkeypatch) / "fold_indices.txt"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError, match="unpack stl10_binary.tar.gz again"):
        stl10_folds(tmp_path, 20)


@pytest.mark.parametrize(("name", "kind"), [("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)])
def test_cifar_reads_planes_of_rows(name: str, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_cifar(kind, tmp_path, monkeypatch, images=10)
    splits = open_splits(section(name, tmp_path), seed=0)
    assert splits.learn is splits.train
    assert splits.test is not None
    files = len(kind.train_list)  # type: ignore[attr-defined]
    assert (len(splits.learn), len(splits.test)) == (10 * files, 10)
    assert splits.test.classes[3] == "class 3"
    assert splits.test.labels is not None
    assert splits.test.labels.tolist() == list(range(10))
    content = pickle.loads((folder / kind.test_list[0][0]).read_bytes())  # type: ignore[attr-defined]
    row, column, channel = 3, 30, 1
    assert splits.test.read(4)[row, column, channel] == content["data"][4][channel * 1024 + row * 32 + column]


def test_imagenette_is_two_folders(tmp_path: Path) -> None:
    for split, images in {"train": 3, "val": 2}.items():
        for wnid in ("n01440764", "n03888257"):
            (tmp_path / "imagenette2-160" / split / wnid).mkdir(parents=True)
            for k in range(images):
                Image.new("RGB", (40, 50), (k, 0, 0)).save(
                    tmp_path / "imagenette2-160" / split / wnid / f"{k}.JPEG", quality=95
                )
    splits = open_splits(section("imagenette", tmp_path), seed=0)
    assert splits.test is not None
    assert (len(splits.learn), len(splits.test)) == (6, 4)
    assert splits.test.classes == ("n01440764", "n03888257")
    assert splits.learn.read(0).shape == (50, 40, 3)


ARCHIVES = [
    ("stl10", "stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb"),
    ("cifar10", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    ("cifar100", "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    ("imagenette", "imagenette2-160.tgz", "e793b78cc4c9e9a4ccc0c1155377a412"),
]


@pytest.mark.parametrize(("name", "archive", "md5"), ARCHIVES)
def test_a_missing_set_says_which_file_goes_where_and_how_it_is_fetched(
    name: str, archive: str, md5: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as fault:
        open_splits(section(name, tmp_path), seed=0)
    message = str(fault.value)
    assert f"{tmp_path / archive} (MD5 {md5})" in message
    assert "--set data.download=true" in message
    assert "\n" not in message


@pytest.mark.parametrize(("name", "archive", "md5"), ARCHIVES)
def test_without_network_a_download_says_which_file_goes_where(
    name: str, archive: str, md5: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"http://127.0.0.1:9/{archive}"  # The discard port: refused at once.
    for kind in (datasets.STL10, datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(kind, "url", nowhere)
    monkeypatch.setattr(datasets.Imagenette, "_ARCHIVES", {"160px": (nowhere, md5)})
    with pytest.raises(InputError) as fault:
        open_splits(section(name, tmp_path, download=True), seed=0)
    assert "could not be fetched" in str(fault.value)
    assert f"put {tmp_path / archive} (MD5 {md5})" in str(fault.value)


def test_a_damaged_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_stl10(tmp_path, monkeypatch)
    with open(folder / "test_X.bin", "r+b") as file:
        file.write(b"damage")
    with pytest.raises(InputError, match="stl10 is not in .*, or not whole"):
        open_splits(section("stl10", tmp_path), seed=0)
