"""Which images of a run its bundle is made and proven with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.test_command_line import draw_folder

from byolt.data import open_splits
from byolt.delivery.export import bundle_options
from byolt.delivery.proof_images import gather_proof_images
from byolt.recipe.data import Data
from byolt.recipe.export import Export
from byolt.recipe.optim import Schedule
from byolt.recipe.schema import Recipe
from byolt_export.bundle.manifest import Precision
from byolt_export.errors import InputError
from byolt_export.proof.images import ProofImages


def recipe(root: Path, cache: Path, **export: object) -> Recipe:
    return Recipe(
        name="tiny",
        data=Data(name="folder", root=root, image_size_px=16, cache_dir=cache),
        schedule=Schedule(epochs=1, warmup_epochs=0),
        export=Export(**export),  # type: ignore[arg-type]
    )


def gather(
    given: Recipe, *, precisions: Sequence[Precision] = ("int8",), tuned: bool = False, labelled: bool = True
) -> ProofImages:
    return gather_proof_images(
        given,
        bundle_options(given).input_of(given.data.image_size_px),
        splits=open_splits(given.data, given.seed),
        precisions=precisions,
        tuned=tuned,
        labelled=labelled,
    )


def rows(images: np.ndarray | None) -> set[bytes]:
    assert images is not None
    return {image.tobytes() for image in images}


def test_no_image_is_in_two_sets(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "images", classes=2, images=120)
    (root / "class-0" / "again.png").write_bytes((root / "class-0" / "0000.png").read_bytes())
    sizes = {"golden_images": 8, "query_images": 10, "calibration_images": 30, "gallery_images": 50}
    found = gather(recipe(root, tmp_path / "cache", **sizes))
    sets = [rows(images) for images in (found.golden, found.queries, found.calibration, found.gallery)]
    assert [len(each) for each in sets] == [8, 10, 30, 50]
    assert len(set.union(*sets)) == 98
    assert found.tuning is None
    tuned = gather(recipe(root, tmp_path / "cache", **(sizes | {"calibration_images": 20})), tuned=True)
    sets = [rows(images) for images in (tuned.golden, tuned.queries, tuned.calibration, tuned.tuning, tuned.gallery)]
    assert [len(each) for each in sets[:4]] == [8, 10, 20, 24]  # A quarter of the images that it learned from.
    assert len(set.union(*sets)) == sum(map(len, sets))
    assert found.golden_labels is not None
    assert found.gallery_labels is not None
    assert (len(found.golden_labels), len(found.gallery_labels)) == (8, 50)
    # The colour tells the class: labels and images belong together.
    assert found.gallery is not None
    red = found.gallery[..., 0].mean(axis=(1, 2))
    assert red[found.gallery_labels == 1].min() > red[found.gallery_labels == 0].max()
    again = gather(recipe(root, tmp_path / "cache", **sizes))
    assert np.array_equal(again.calibration, found.calibration)  # type: ignore[arg-type]


def test_without_labels_or_calibration_their_images_are_absent(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "images", classes=0, images=60)
    found = gather(recipe(root, tmp_path / "cache", golden_images=8), precisions=("fp32", "fp16"))
    assert (found.golden_labels, found.queries, found.query_labels, found.gallery_labels) == (None,) * 4
    assert found.calibration is None
    assert rows(found.golden).isdisjoint(rows(found.gallery))


def test_synthetic_golden_images_are_none_of_the_users(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "images", classes=0, images=60)
    found = gather(recipe(root, tmp_path / "cache", golden="synthetic", golden_images=8, camera_px=(20, 24)))
    assert found.golden_kind == "synthetic"
    assert found.golden.shape == (8, 20, 24, 3)
    assert found.gallery is not None
    assert found.gallery.shape == (60 - 32, 20, 24, 3)  # 512 images for calibration would leave none.


def test_frames_of_another_camera_are_refused(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "images", classes=0, images=60)
    with pytest.raises(InputError, match=r"is 24 x 20 px, but export.camera_px says that frames of 32 x 20 px"):
        gather(recipe(root, tmp_path / "cache", camera_px=(20, 32)))
