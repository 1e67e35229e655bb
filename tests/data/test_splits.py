import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from byolt.data import ImageSource, open_splits
from byolt.data.subsets import stratified_subset
from byolt.recipe.data import Data
from byolt_export.errors import InputError


def folder(root: Path, **images: int) -> Path:
    for name, count in images.items():
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (8, 8), (k, k, k)).save(root / name / f"{k:02}.png")
    return root


def section(root: Path, **keys: object) -> Data:
    return Data.model_validate({"name": "folder", "root": root, "image_size_px": 8} | keys)


def names(source: ImageSource | None) -> list[str]:
    assert source is not None
    return [str(Path(*Path(source.path(k)).parts[-2:])) for k in range(len(source))]


def test_a_stratified_subset_holds_the_share_of_each_class() -> None:
    labels = np.array([0] * 10 + [1] * 25 + [2] * 2 + [3] * 1)
    chosen = stratified_subset(labels, 0.1, seed=0)
    # 10 * 0.1 = 1; 25 * 0.1 = 2.5, half up 3; 0.2 and 0.1 are raised to 1.
    assert np.bincount(labels[chosen]).tolist() == [1, 3, 1, 1]
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, stratified_subset(labels, 0.1, seed=0))
    assert chosen.tolist() != stratified_subset(labels, 0.1, seed=1).tolist()
    np.testing.assert_array_equal(stratified_subset(labels, 1.0, seed=0), np.arange(38))
    assert set(chosen) < set(stratified_subset(labels, 0.3, seed=0))  # a larger share adds images, it swaps none


def test_a_labelled_folder_is_split_by_class_and_never_learns_from_the_test_part(tmp_path: Path) -> None:
    root = folder(tmp_path / "parts", good=10, crack=5, odd=1)
    splits = open_splits(section(root), seed=0)
    assert splits.learn is splits.train
    train, test = splits.train, splits.test
    assert train is not None
    assert test is not None
    assert test.labels is not None
    assert train.classes == test.classes == ("crack", "good", "odd")
    # 5 * 0.2 = 1, 10 * 0.2 = 2, and the only image of a class stays in the training part.
    assert np.bincount(test.labels, minlength=3).tolist() == [1, 2, 0]
    assert sorted(names(train) + names(test)) == names(open_splits(section(root, test_root=_copy(tmp_path)), 0).train)
    for source in (train, test):
        assert source.labels is not None
        assert [source.classes[label] for label in source.labels] == [name.split("/")[0] for name in names(source)]
    assert names(test) == names(open_splits(section(root), seed=0).test)
    assert names(test) != names(open_splits(section(root), seed=1).test)


def _copy(tmp_path: Path) -> Path:
    return folder(tmp_path / "held-out", good=1, crack=1, odd=1)


def test_runs_of_several_seeds_hold_out_the_same_images_by_one_split_seed(tmp_path: Path) -> None:
    root = folder(tmp_path / "parts", good=20, crack=20)
    of_seed = {seed: names(open_splits(section(root), seed).test) for seed in (0, 1)}
    assert of_seed[0] != of_seed[1]
    assert names(open_splits(section(root, split_seed=0), 1).test) == of_seed[0]


def test_an_unlabelled_folder_is_learned_from_whole(tmp_path: Path) -> None:
    root = folder(tmp_path, images=4)
    splits = open_splits(section(root), seed=0)
    assert len(splits.learn) == 4
    assert (splits.train, splits.test) == (None, None)


def test_sub_folders_may_be_mere_folders(tmp_path: Path) -> None:
    root = folder(tmp_path / "cameras", left=4, right=6, test=1, train=1)  # Nor are splits looked for.
    splits = open_splits(section(root, labels="none"), seed=0)
    assert len(splits.learn) == 12
    assert (splits.train, splits.test) == (None, None)
    drawn = Data.model_validate({"name": "synthetic", "image_size_px": 16, "labels": "none", "synthetic_images": 64})
    assert (len(open_splits(drawn, seed=0).learn), open_splits(drawn, seed=0).test) == (64, None)
    with pytest.raises(ValueError, match="test_root goes with labels: leave it out"):
        section(root, labels="none", test_root=tmp_path)


def test_a_test_root_is_the_test_split(tmp_path: Path) -> None:
    train, test = folder(tmp_path / "train", good=3, crack=2), folder(tmp_path / "test", good=1, crack=2)
    splits = open_splits(section(train, test_root=test), seed=0)
    assert [len(names(source)) for source in (splits.learn, splits.train, splits.test)] == [5, 5, 3]


@pytest.mark.parametrize(
    ("train", "test", "fault"),
    [
        (
            {"good": 3, "crack": 2},
            {"good": 1, "dent": 2},
            "test holds images of dent, but folder .*train has none of that class to learn it from",
        ),
        ({"good": 3}, {"good": 1, "crack": 2}, "goes with labels, but .*train has no sub-folder per class"),
    ],
)
def test_a_test_root_of_other_classes_is_refused(
    tmp_path: Path, train: dict[str, int], test: dict[str, int], fault: str
) -> None:
    data = section(folder(tmp_path / "train", **train), test_root=folder(tmp_path / "test", **test))
    with pytest.raises(InputError, match=fault):
        open_splits(data, seed=0)


def test_a_class_may_have_no_test_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = folder(tmp_path / "train", ant=2, bee=2, cat=2)
    for name, held_out in {"empty": {"bee": 2, "cat": 0}, "absent": {"bee": 2}, "two": {"ant": 1, "cat": 1}}.items():
        test = open_splits(section(train, test_root=folder(tmp_path / name, **held_out)), seed=0).test
        assert test is not None
        assert test.labels is not None
        assert test.classes == ("ant", "bee", "cat")
        assert [test.classes[k] for k in test.labels] == [Path(path).parent.name for path in names(test)]
    for name, absent in {"empty": "ant, cat", "absent": "ant, cat", "two": "bee"}.items():
        assert f"{name} has no test images of {absent}: the metrics are of the other classes" in caplog.text
    assert f"folder {tmp_path}/empty: no images in the sub-folders cat" in caplog.text


def test_a_class_of_one_image_has_no_test_image_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_splits(section(folder(tmp_path / "parts", good=10, odd=1)), seed=0)
    assert "test part of seed 0 has no test images of odd: the metrics are of the other classes" in caplog.text


def test_a_class_that_is_only_tested_says_which_folder_is_empty(tmp_path: Path) -> None:
    train = folder(tmp_path / "train", ant=2, bee=2, cat=0)
    test = folder(tmp_path / "test", ant=1, cat=1)
    with pytest.raises(InputError, match="test holds images of cat, but .*: the sub-folder of cat is empty; name"):
        open_splits(section(train, test_root=test), seed=0)


def test_a_stray_image_in_a_test_folder_is_named(tmp_path: Path) -> None:
    train, test = folder(tmp_path / "train", ant=2, bee=2), folder(tmp_path / "test", ant=1, bee=1)
    Image.new("RGB", (8, 8)).save(test / "cover.jpg")
    with pytest.raises(InputError, match="test needs one sub-folder per class, but cover.jpg lies in none"):
        open_splits(section(train, test_root=test), seed=0)


def test_an_accent_may_be_a_letter_of_its_own(tmp_path: Path) -> None:
    """As macOS writes names (NFD), against those of Linux and Windows (NFC); in Hangul too."""
    whole, apart = ("caf\u00e9", "\ud55c", "z"), ("cafe\u0301", "\u1112\u1161\u11ab", "z")
    for ours, theirs in ((whole, apart), (apart, whole)):
        train = folder(tmp_path / "train", **dict.fromkeys(ours, 2))
        test = folder(tmp_path / "test", **dict(zip(theirs, (1, 2, 3), strict=True)))
        splits = open_splits(section(train, test_root=test), seed=0)
        assert splits.test is not None
        assert splits.test.labels is not None
        assert splits.learn.classes == splits.test.classes
        assert set(splits.test.classes) == set(whole)
        counts = {splits.test.classes[k]: int(n) for k, n in enumerate(np.bincount(splits.test.labels))}
        assert counts == dict(zip(whole, (1, 2, 3), strict=True))
        for root in (train, test):
            shutil.rmtree(root)
    both = folder(tmp_path / "both", **{whole[0]: 2, apart[0]: 3, "z": 4})
    source = open_splits(section(both, test_root=folder(tmp_path / "one", z=1)), seed=0).learn
    assert source.labels is not None
    assert (set(source.classes), sorted(np.bincount(source.labels).tolist())) == ({whole[0], "z"}, [4, 5])


@pytest.mark.parametrize("test_root", [".", "good", ".."])
def test_a_test_root_that_shares_images_is_refused(tmp_path: Path, test_root: str) -> None:
    root = folder(tmp_path / "parts", good=3, crack=2)
    with pytest.raises(InputError, match="share images; name separate folders"):
        open_splits(section(root, test_root=root / test_root), seed=0)


def test_a_folder_of_splits_is_not_taken_for_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder(tmp_path / split, good=2, crack=2)
    with pytest.raises(InputError, match=r"holds the splits test, train, not classes; .*--set data\.root=.*train"):
        open_splits(section(tmp_path), seed=0)


def test_a_share_that_leaves_nothing_to_train_or_test_on_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "parts", good=2, crack=2)
    with pytest.raises(InputError, match=r"data\.test_share 0\.9 leaves a class without images"):
        open_splits(section(root, test_share=0.9), seed=0)
    with pytest.raises(InputError, match="none to test on; .*--set data.labels=none"):
        open_splits(section(folder(tmp_path / "single", good=1, crack=1)), seed=0)


def test_the_synthetic_splits_have_the_sizes_of_the_recipe() -> None:
    data = Data.model_validate({"name": "synthetic", "image_size_px": 16, "store_size_px": 24, "synthetic_images": 64})
    splits = open_splits(data, seed=0)
    assert splits.learn is splits.train
    assert splits.test is not None
    assert (len(splits.learn), len(splits.test)) == (64, 2000)
    assert splits.learn.read(0).shape == (24, 24, 3)
    assert (splits.learn.read(0) != splits.test.read(0)).any()
