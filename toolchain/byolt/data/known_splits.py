"""The splits of a run that has begun: its own images, wherever its folder has got others since."""

from typing import TYPE_CHECKING

import numpy as np

from byolt.data.run_images import Found, RunImages, images_of_run, read_run_images
from byolt.data.source import Digests, FileImages, ImageSource, Labels, PartOf
from byolt.data.splits import Sources, Splits, hold_out, open_sources, open_splits, parts_of
from byolt.log import warn_once
from byolt.run import Run
from byolt_export.errors import InputError

if TYPE_CHECKING:
    from byolt.recipe.data import Data
    from byolt.recipe.schema import Recipe

_NO_LIST = (
    "keeps no list of its images, as an older byolt made it: whether the test images were learned from is not known "
    "where the folder was changed since"
)


def keep_run_images(run: Run, splits: Splits, digests: Digests | None) -> None:
    """Write down which images a run learns from and which it holds out, where they are files.

    Args:
        run: The run, before its first step.
        splits: Its images.
        digests: Of the content of ``splits.learn``; None where it is streamed.

    Raises:
        InputError: A test image cannot be read.
        ByoltError: The file cannot be written.
    """
    learn, test = splits.learn, splits.test
    if not isinstance(learn, FileImages):
        return
    assert test is None or isinstance(test, FileImages)
    apart = not isinstance(test, PartOf) or not isinstance(learn, PartOf) or test.source is not learn.source
    images_of_run(learn, digests, test, apart=apart).save(run.images_file)


def open_run_splits(run: Run, recipe: "Recipe") -> Splits:
    """The images that a run learned from and those that it held out, as far as they are here.

    A file that was added or changed since is in neither part; what differs is told.

    Raises:
        InputError: The set is missing, or none of the run's images is here.
    """
    known = read_run_images(run.images_file)
    if known is None:
        splits = open_splits(recipe.data, recipe.seed)
        if isinstance(splits.learn, FileImages):
            warn_once(f"{run.path} {_NO_LIST}")
        return splits
    sources = open_sources(recipe.data)
    whole = sources.learn
    assert isinstance(whole, FileImages)
    found = known.find(whole, elsewhere=False)
    _tell(found, whole)
    if not found.learned.any():
        raise InputError(f"{whole.name} holds none of the images that {run.path} learned from; give their folder")
    learned = np.flatnonzero(found.learned)
    if sources.train is None:
        return Splits(_some_of(whole, learned), None, None)
    if sources.test is None:
        return _share_of_run(run, whole, learned, np.flatnonzero(found.held_out), recipe.seed)
    learn = _some_of(whole, learned)
    assert isinstance(sources.test, FileImages)
    return Splits(learn, learn, _test_folder_of_run(known, sources.test))


def _share_of_run(run: Run, whole: FileImages, learned: Labels, held_out: Labels, seed: int) -> Splits:
    """The run's own parts of a set of which it held out a share."""
    if len(held_out) == 0:
        warn_once(
            f"{whole.name} holds no image that {run.path} held out, so there are no metrics by labels; put them back, "
            "or name a folder of images that it did not learn from by --set data.test_root=DIR"
        )
        return Splits(_some_of(whole, learned), None, None)
    return _without_odd_classes(parts_of(whole, learned, held_out, seed))


def _test_folder_of_run(known: RunImages, test: FileImages) -> ImageSource:
    """The run's test images; of a folder that holds none of them all that it did not learn from."""
    found = known.find(test, elsewhere=True)
    if found.held_out.any():
        _tell(found, test)
        return _some_of(test, np.flatnonzero(found.held_out))
    if known.held_out.any():
        warn_once(f"{test.name} holds none of the run's test images: the metrics are of others")
    return _unseen(test, found)


def _unseen(test: FileImages, found: Found) -> ImageSource:
    """The images of a test folder that the run did not learn from."""
    count = int(found.seen.sum())
    if count == len(test):
        raise InputError(f"the run learned from every image of {test.name}; test it on others")
    if count:
        warn_once(f"{test.name}: left out of the test are {count:,} images that the run learned from")
    return _some_of(test, np.flatnonzero(~found.seen))


def _tell(found: Found, source: ImageSource) -> None:
    """Say what differs from the images that the run knew, and which test images it has seen twins of."""
    if differs := found.told():
        warn_once(
            f"{source.name} is not as it was when the run learned from it: {differs} (files); what was added or "
            "changed is in no part"
        )
    if twins := int((found.held_out & found.seen).sum()):
        warn_once(
            f"{source.name}: {twins:,} test images have the content of one that was learned from; see byolt data check"
        )


def _some_of(source: ImageSource, rows: Labels) -> ImageSource:
    return source if len(rows) == len(source) else PartOf(source, rows, source.name)


def _without_odd_classes(splits: Splits) -> Splits:
    """The same images; a class that came after the run is none."""
    train, test = splits.train, splits.test
    assert isinstance(train, PartOf)
    assert isinstance(test, PartOf)
    assert train.labels is not None
    assert test.labels is not None
    present = set(train.labels.tolist()) | set(test.labels.tolist())
    if len(present) == len(train.classes):
        return splits
    classes = tuple(name for k, name in enumerate(train.classes) if k in present)
    train, test = (PartOf(part.source, part.indices, part.name, classes) for part in (train, test))
    return Splits(train, train, test)


def open_finetune_splits(run: Run, data: "Data", seed: int) -> Splits:
    """Train and test images for a classifier from a labelled folder, which need not be the run's own.

    No test image was learned from, unless all of the folder's were: that is told. Of one image a class there are none.

    Raises:
        InputError: The folder has no labels, or the run learned from all of its test folder.
    """
    sources = open_sources(data)
    if sources.train is None:
        why = getattr(sources.learn, "why_no_labels", "")
        raise InputError(
            f"{data.root} has no labels ({why}): put the images of each class into a sub-folder named after it"
        )
    known = read_run_images(run.images_file)
    whole, test = sources.train, sources.test
    assert isinstance(whole, FileImages)
    if test is None and _has_one_image_a_class(whole):
        warn_once(
            f"{whole.name} holds one image a class, so none is left to test on: the classifier is trained, and no "
            "accuracy is known; name test images with --test"
        )
        return Splits(whole, whole, None)
    if known is None:
        if run.recipe.data.name in ("folder", "shards", "imagenette"):
            warn_once(f"{run.path} {_NO_LIST}")
        return open_splits(data, seed)
    if test is not None:
        assert isinstance(test, FileImages)
        return Splits(whole, whole, _unseen(test, known.find(test, elsewhere=None)))
    return _share_to_finetune(whole, known.find(whole, elsewhere=None), sources, seed)


def _has_one_image_a_class(whole: FileImages) -> bool:
    return whole.labels is not None and len(whole.labels) == len(set(whole.labels.tolist()))


def _share_to_finetune(whole: FileImages, found: Found, sources: Sources, seed: int) -> Splits:
    """The run's own test images where some are here, else a share of those that it did not learn from."""
    if found.held_out.any():
        copies = found.kept & ~found.seen
        return parts_of(whole, np.flatnonzero(~found.held_out & ~copies), np.flatnonzero(found.held_out), seed)
    assert sources.share is not None
    if not found.seen.all():
        return hold_out(whole, sources.share, seed, np.flatnonzero(~found.seen))
    splits = hold_out(whole, sources.share, seed, np.arange(len(whole)))
    warn_once(
        f"the run learned from every image of {whole.name}, though without labels: the metrics are not of images that "
        "are new to it; name such a folder with --test"
    )
    assert splits.test is not None
    splits.test.name += ", learned from"
    return splits
