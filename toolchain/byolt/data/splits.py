"""What a recipe learns from, and what it is measured on: the three splits of a set."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from byolt.data.folder import FolderSource
from byolt.data.source import ImageSource, PartOf
from byolt.data.subsets import stratified_subset
from byolt.data.synthetic import TEST_IMAGES, SyntheticSource
from byolt_export.errors import InputError

if TYPE_CHECKING:
    from byolt.schema import Data


@dataclass(frozen=True)
class Splits:
    """Sources of a recipe; ``train`` and ``test`` are labelled, and None where the set has no labels."""

    learn: ImageSource
    """What the encoder learns from, without labels; never a test image."""
    train: ImageSource | None
    """Labelled images for the probe, the gallery of kNN, and fine-tuning."""
    test: ImageSource | None
    """Labelled images that figures are of."""


def open_splits(data: "Data", seed: int) -> Splits:
    """The splits of a recipe's data section; no image is decoded.

    Raises:
        InputError: The set is missing, or its parts do not fit one another.
    """
    if data.name == "synthetic":
        size_px = data.learn_size_px
        drawn = SyntheticSource("train", data.synthetic_images, size_px)
        return Splits(drawn, drawn, SyntheticSource("test", TEST_IMAGES, size_px))
    if data.name == "folder":
        assert data.root is not None
        return _folder_splits(data.root, data.test_root, data.test_share, seed)
    from byolt.data.known import open_known

    return Splits(*open_known(data.name, data.root or Path("data") / data.name, download=data.download))


def _folder_splits(root: Path, test_root: Path | None, test_share: float, seed: int) -> Splits:
    """All of an unlabelled folder; of a labelled one ``test_root``, or else a stratified share, is held out."""
    whole = FolderSource(root)
    if whole.labels is None:
        if test_root is not None:
            raise InputError(f"data.test_root {test_root} goes with labels, but {root} has no sub-folder a class")
        return Splits(whole, None, None)
    if test_root is not None:
        return Splits(whole, whole, _same_classes(FolderSource(test_root), whole))
    held_out = stratified_subset(whole.labels, test_share, seed)
    rest = np.setdiff1d(np.arange(len(whole)), held_out)
    if len(np.unique(whole.labels[rest])) < len(whole.classes):
        raise InputError(f"{root}: every class needs at least 2 images, one to train on and one held out")
    train = PartOf(whole, rest, f"{whole.name}, train part of seed {seed}")
    return Splits(train, train, PartOf(whole, held_out, f"{whole.name}, test part of seed {seed}"))


def _same_classes(test: FolderSource, train: FolderSource) -> FolderSource:
    if test.classes != train.classes:
        extra = sorted(set(test.classes) ^ set(train.classes))
        raise InputError(f"data.test_root {test.root} and {train.root} hold other classes: {', '.join(extra[:5])}")
    return test
