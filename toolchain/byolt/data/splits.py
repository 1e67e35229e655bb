"""What a recipe learns from, and what it is measured on: the three splits of a set."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from byolt.data.folder import FolderSource
from byolt.data.shards import ShardSource, holds_shards, open_folder, open_url
from byolt.data.source import ImageSource, Labels, PartOf
from byolt.data.subsets import stratified_subset
from byolt.data.synthetic import TEST_IMAGES, SyntheticSource
from byolt.working import working
from byolt_export.errors import InputError

if TYPE_CHECKING:
    from byolt.recipe.data import Data


_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True)
class Splits:
    """Sources of a recipe; ``train`` and ``test`` are labelled, and None where the set has no labels."""

    learn: ImageSource
    """What the encoder learns from, without labels; never a test image."""
    train: ImageSource | None
    """Labelled images for the probe, the gallery of kNN, and fine-tuning."""
    test: ImageSource | None
    """Labelled images that metrics are of."""
    folds: tuple[Labels, ...] = ()
    """The set's official folds as indices into ``train``; empty where it has none."""


def open_splits(data: "Data", seed: int) -> Splits:
    """The splits of a recipe's data section; no image is decoded.

    Raises:
        InputError: The set is missing, or its parts do not fit one another.
    """
    with working("opening the images"):
        splits = _all_splits(data, seed)
    return splits if data.labels == "auto" else Splits(splits.learn, None, None)


def _all_splits(data: "Data", seed: int) -> Splits:
    if data.name == "synthetic":
        size_px = data.learn_size_px
        drawn = SyntheticSource("train", data.synthetic_images, size_px)
        return Splits(drawn, drawn, SyntheticSource("test", TEST_IMAGES, size_px))
    if data.name == "folder":
        assert data.root is not None
        if data.labels == "none":  # Nothing is held out of it.
            return Splits(FolderSource(data.root), None, None)
        return _folder_splits(data.root, data.test_root, data.test_share, seed)
    if data.name == "shards":
        return _shard_splits(data)
    from byolt.data.named_sets import open_named_set, stl10_folds

    root = data.root or Path("data") / data.name
    known = open_named_set(data.name, root, download=data.download)
    return Splits(*known, folds=stl10_folds(root, len(known.train)) if data.name == "stl10" else ())


def _folder_splits(root: Path, test_root: Path | None, test_share: float, seed: int) -> Splits:
    """All of an unlabelled folder; of a labelled one ``test_root``, or else a stratified share, is held out."""
    whole = FolderSource(root)
    if len({name.lower() for name in whole.classes} & _SPLIT_NAMES) > 1:
        raise InputError(
            f"{root} holds the splits {', '.join(whole.classes)}, not classes; learn from one of them and test on "
            f"another, for example --set data.root={root / 'train'} --set data.test_root={root / 'test'}; or "
            "learn from all of it with --set data.labels=none"
        )
    if test_root is not None:
        return Splits(whole, whole, _held_out_folder(test_root, whole))
    if whole.labels is None:
        return Splits(whole, None, None)
    held_out = stratified_subset(whole.labels, test_share, seed)
    held_out = held_out[np.bincount(whole.labels)[whole.labels[held_out]] > 1]  # The only image of a class is kept.
    rest = np.setdiff1d(np.arange(len(whole)), held_out)
    if len(held_out) == 0 or len(np.unique(whole.labels[rest])) < len(whole.classes):
        raise InputError(
            f"{root}: data.test_share {test_share:g} leaves a class without images to train on or none to test on; "
            "give another share, or learn without labels with --set data.labels=none"
        )
    train = PartOf(whole, rest, f"{whole.name}, train part of seed {seed}")
    return Splits(train, train, PartOf(whole, held_out, f"{whole.name}, test part of seed {seed}"))


def _held_out_folder(test_root: Path, train: FolderSource) -> FolderSource:
    """The labelled folder ``test_root``, which holds the classes of ``train`` and none of its images."""
    if train.labels is None:
        raise InputError(f"data.test_root {test_root} goes with labels, but {train.root} has no sub-folder per class")
    inner, outer = test_root.resolve(), train.root.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise InputError(f"data.test_root {test_root} and data.root {train.root} share images; name separate folders")
    test = FolderSource(test_root)
    if test.classes != train.classes:
        odd = sorted(set(test.classes) ^ set(train.classes))
        raise InputError(
            f"data.test_root {test_root} must hold the same sub-folders, one per class, as {train.root}; "
            f"only one of them has: {', '.join(odd[:5])}"
        )
    return test


def _shard_splits(data: "Data") -> Splits:
    """All of the shards to learn and train on; ``test_root`` to test on where it is given: shards are not split."""
    if data.url is not None:
        whole = open_url(data.url, data.cache_dir, data.shard_cache_gb)
    else:
        assert data.root is not None
        whole = open_folder(data.root, data.cache_dir)
    if data.test_root is None or data.labels == "none":
        return Splits(whole, None if whole.labels is None else whole, None)
    return Splits(whole, whole, _held_out_of_shards(data.test_root, whole, data))


def _held_out_of_shards(test_root: Path, train: ShardSource, data: "Data") -> ImageSource:
    if train.labels is None:
        raise InputError(f"data.test_root {test_root} goes with labels, but {train.name} have none")
    if data.root is not None and data.root.resolve() == test_root.resolve():
        raise InputError(f"data.test_root {test_root} is data.root; name separate folders")
    shards = holds_shards(test_root)
    test: ImageSource = open_folder(test_root, data.cache_dir) if shards else FolderSource(test_root)
    if test.classes != train.classes:
        odd = sorted(set(test.classes) ^ set(train.classes))
        raise InputError(
            f"data.test_root {test_root} must hold the same classes as {train.name}; only one of them has: "
            f"{', '.join(odd[:5])}"
        )
    return test
