"""What a recipe learns from, and what it is measured on: the three splits of a set."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from byolt.data.folder import FolderSource, tell_remarks
from byolt.data.folder_listing import some
from byolt.data.shards import ShardSource, holds_shards, open_folder, open_url
from byolt.data.source import ImageSource, Labels, PartOf
from byolt.data.subsets import stratified_subset
from byolt.data.synthetic import TEST_IMAGES, SyntheticSource
from byolt.log import warn_once
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


class Sources(NamedTuple):
    """The sets of a recipe before one is split."""

    learn: ImageSource
    train: ImageSource | None
    """Labelled images; None where there are none, or they are no classes."""
    test: ImageSource | None
    """None where nothing is held out, or a share of ``learn`` is."""
    share: float | None = None
    """Of ``learn``, to be held out."""
    folds: tuple[Labels, ...] = ()


def open_splits(data: "Data", seed: int) -> Splits:
    """The splits of a recipe's data section for a run that begins; no image is decoded.

    Args:
        data: The section.
        seed: The recipe's, which draws what is held out where ``data.split_seed`` does not.

    Raises:
        InputError: The set is missing, or its parts do not fit one another.
    """
    sources = open_sources(data)
    if sources.share is not None:
        split_seed = seed if data.split_seed is None else data.split_seed
        return hold_out(sources.learn, sources.share, split_seed, np.arange(len(sources.learn)))
    return Splits(sources.learn, sources.train, sources.test, sources.folds)


def open_sources(data: "Data") -> Sources:
    """The sets of a recipe's data section; no image is decoded.

    Raises:
        InputError: The set is missing, or its parts do not fit one another.
    """
    with working("opening the images"):
        sources = _all_sources(data)
    return sources if data.labels == "auto" else Sources(sources.learn, None, None)


def _all_sources(data: "Data") -> Sources:
    if data.name == "synthetic":
        size_px = data.learn_size_px
        drawn = SyntheticSource("train", data.synthetic_images, size_px)
        return Sources(drawn, drawn, SyntheticSource("test", TEST_IMAGES, size_px))
    if data.name == "folder":
        assert data.root is not None
        labels_wanted = data.labels == "auto"
        whole = FolderSource(data.root)
        tell_remarks(whole, labels_wanted=labels_wanted)
        # Without labels nothing is held out.
        return _folder_sources(whole, data.test_root, data.test_share) if labels_wanted else Sources(whole, None, None)
    if data.name == "shards":
        return _shard_sources(data)
    from byolt.data.named_sets import open_named_set, stl10_folds

    root = data.root or Path("data") / data.name
    known = open_named_set(data.name, root, download=data.download)
    return Sources(*known, folds=stl10_folds(root, len(known.train)) if data.name == "stl10" else ())


def _folder_sources(whole: FolderSource, test_root: Path | None, test_share: float) -> Sources:
    """All of an unlabelled folder; of a labelled one ``test_root``, or else a share, is to be held out."""
    root = whole.root
    if len({name.lower() for name in whole.classes} & _SPLIT_NAMES) > 1:
        raise InputError(
            f"{root} holds the splits {', '.join(whole.classes)}, not classes; learn from one of them and test on "
            f"another, for example --set data.root={root / 'train'} --set data.test_root={root / 'test'}; or "
            "learn from all of it with --set data.labels=none"
        )
    if test_root is not None:
        return Sources(whole, whole, _held_out_folder(test_root, whole))
    if whole.labels is None:
        return Sources(whole, None, None)
    return Sources(whole, whole, None, test_share)


def hold_out(whole: ImageSource, test_share: float, seed: int, among: Labels) -> Splits:
    """Hold out a stratified share of the images ``among`` those of a labelled set, but not the only one of a class.

    Raises:
        InputError: Nothing is held out, or a class is left without images.
    """
    assert whole.labels is not None
    held_out = among[stratified_subset(whole.labels[among], test_share, seed)]
    held_out = held_out[np.bincount(whole.labels)[whole.labels[held_out]] > 1]
    rest = np.setdiff1d(np.arange(len(whole)), held_out)
    if len(held_out) == 0 or len(np.unique(whole.labels[rest])) < len(whole.classes):
        raise InputError(
            f"{whole.name}: data.test_share {test_share:g} leaves a class without images to train on or none to test "
            "on; give another share, or a folder of test images (data.test_root, or --test of finetune), or learn "
            "without labels with --set data.labels=none"
        )
    splits = parts_of(whole, rest, held_out, seed)
    assert splits.test is not None
    _tell_absent(splits.test)
    return splits


def parts_of(whole: ImageSource, rest: Labels, held_out: Labels, seed: int) -> Splits:
    """The train and the test part of a set, by their indices."""
    train = PartOf(whole, rest, f"{whole.name}, train part of seed {seed}")
    return Splits(train, train, PartOf(whole, held_out, f"{whole.name}, test part of seed {seed}"))


def _held_out_folder(test_root: Path, train: FolderSource) -> FolderSource:
    """The labelled folder ``test_root``, which holds classes of ``train`` and none of its images."""
    if train.labels is None:
        raise InputError(
            f"data.test_root {test_root} goes with labels, but {train.root} has no sub-folder per class: "
            f"{train.why_no_labels}"
        )
    inner, outer = test_root.resolve(), train.root.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise InputError(f"data.test_root {test_root} and data.root {train.root} share images; name separate folders")
    return _labelled_test_folder(test_root, train)


def _labelled_test_folder(test_root: Path, train: ImageSource) -> FolderSource:
    test = FolderSource(test_root, like=train)
    tell_remarks(test)
    _tell_absent(test)
    return test


def _tell_absent(test: ImageSource) -> None:
    assert test.labels is not None
    absent = [name for k, name in enumerate(test.classes) if k not in set(test.labels.tolist())]
    if absent:
        warn_once(f"{test.name} has no test images of {some(absent)}: the metrics are of the other classes")


def _shard_sources(data: "Data") -> Sources:
    """All of the shards to learn and train on; ``test_root`` to test on where it is given: shards are not split."""
    if data.url is not None:
        whole = open_url(data.url, data.cache_dir, data.shard_cache_gb)
    else:
        assert data.root is not None
        whole = open_folder(data.root, data.cache_dir)
    tell_remarks(whole)
    if data.test_root is None or data.labels == "none":
        return Sources(whole, None if whole.labels is None else whole, None)
    return Sources(whole, whole, _held_out_of_shards(data.test_root, whole, data))


def _held_out_of_shards(test_root: Path, train: ShardSource, data: "Data") -> ImageSource:
    if train.labels is None:
        raise InputError(f"data.test_root {test_root} goes with labels, but {train.name} have none")
    if data.root is not None and data.root.resolve() == test_root.resolve():
        raise InputError(f"data.test_root {test_root} is data.root; name separate folders")
    if not holds_shards(test_root):
        return _labelled_test_folder(test_root, train)
    test = open_folder(test_root, data.cache_dir)
    if test.labels is None:
        raise InputError(f"data.test_root {test_root} goes with labels, but {test.name} have none")
    if test.classes == train.classes:
        return test
    known = {unicodedata.normalize("NFC", name) for name in train.classes}
    if odd := [name for name in test.classes if unicodedata.normalize("NFC", name) not in known]:
        raise InputError(
            f"data.test_root {test_root} holds images of {some(odd)}, but {train.name} have none of that class to "
            "learn it from"
        )
    part = PartOf(test, np.arange(len(test)), test.name, train.classes)
    _tell_absent(part)
    return part
