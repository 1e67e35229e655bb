"""The images of a run that has begun: what was held out then is held out for ever, whatever its folder gets."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from byolt.data import ImageSource, Splits, open_splits, store_of
from byolt.data.known_splits import keep_run_images, open_finetune_splits, open_run_splits
from byolt.data.packing import pack
from byolt.files import write_text
from byolt.recipe.data import Data
from byolt.recipe.load import dump_recipe
from byolt.recipe.optim import Schedule
from byolt.recipe.schema import Recipe
from byolt.run import Run
from byolt_export.errors import InputError

CLASSES = ("crack", "dent", "good")
Remarks = pytest.LogCaptureFixture


def remarks(caplog: Remarks) -> list[logging.LogRecord]:
    """What stays to be read: not the lines on what is being done, which a terminal alone shows while it is."""
    return [record for record in caplog.records if not getattr(record, "live", False)]


def draw(path: Path, number: int) -> Path:
    """An image that no other number gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


class Begun:
    """A run that has begun on 20 images of each of three classes: 16 learned from and 4 held out."""

    def __init__(self, folder: Path, **data: Any) -> None:
        self.folder, self.root = folder, folder / "images"
        for k in range(60):
            draw(self.root / CLASSES[k % 3] / f"{k:02}.png", k)
        keys = {"name": "folder", "root": self.root, "image_size_px": 8, "cache_dir": folder / "cache"} | data
        self.data, self.run = Data.model_validate(keys), Run(folder / "run")
        self.then = open_splits(self.data, 0)
        keep_run_images(self.run, self.then, store_of(self.then.learn, self.data, 8).digests)
        write_text(self.run.path / "recipe.resolved.yaml", dump_recipe(recipe(self.data)))
        self.learned, self.held_out = paths(self.then.learn), paths(self.then.test)

    def now(self, **data: Any) -> Splits:
        return open_run_splits(self.run, recipe(self.data.model_copy(update=data)))

    def finetuned(self, root: Path, test: Path | None = None) -> Splits:
        data = self.data.model_copy(update={"root": root, "test_root": test, "labels": "auto", "name": "folder"})
        return open_finetune_splits(self.run, data, 0)


def recipe(data: Data) -> Recipe:
    return Recipe(name="tiny", data=data, schedule=Schedule(epochs=1, warmup_epochs=0))


def paths(source: ImageSource | None) -> set[str]:
    return set() if source is None else {source.path(k) for k in range(len(source))}


def labels(source: ImageSource | None) -> list[str]:
    assert source is not None
    assert source.labels is not None
    return [source.classes[label] for label in source.labels]


def test_the_same_folder_gives_the_very_same_splits_without_a_word(tmp_path: Path, caplog: Remarks) -> None:
    begun = Begun(tmp_path)
    now = begun.now()
    then = begun.then
    for ours, theirs in ((now.learn, then.learn), (now.train, then.train), (now.test, then.test)):
        assert ours is not None
        assert theirs is not None
        assert (ours.fingerprint, ours.cache_key, ours.name) == (theirs.fingerprint, theirs.cache_key, theirs.name)
    assert (len(begun.learned), len(begun.held_out)) == (48, 12)
    assert not remarks(caplog)


def test_files_that_were_added_put_no_learned_image_into_the_test_part(tmp_path: Path, caplog: Remarks) -> None:
    begun = Begun(tmp_path)
    draw(begun.root / "crack" / "000-new.png", 100)
    assert paths(open_splits(begun.data, 0).test) & begun.learned  # What is drawn anew is another part.
    draw(begun.root / "a-new-class" / "1.png", 101)
    now = begun.now()
    assert (paths(now.learn), paths(now.test)) == (begun.learned, begun.held_out)
    assert now.test is not None
    assert now.learn.classes == now.test.classes == CLASSES
    assert labels(now.test) == [Path(path).parent.name for path in sorted(begun.held_out)]
    assert "not as it was when the run learned from it: 2 added (files)" in caplog.text


def test_files_that_are_gone_or_were_changed_are_told_and_in_no_part(tmp_path: Path, caplog: Remarks) -> None:
    begun = Begun(tmp_path)
    held_out, learned = sorted(begun.held_out), sorted(begun.learned)
    Path(held_out[0]).unlink()
    shutil.copyfile(learned[0], held_out[1])  # A learned image under a test image's name.
    draw(Path(learned[1]), 100)
    now = begun.now()
    assert paths(now.test) == set(held_out[2:])
    assert paths(now.learn) == {learned[0], *learned[2:]}
    assert "2 changed, 1 gone (files)" in caplog.text


def test_without_its_test_images_a_run_has_no_metrics_by_labels(tmp_path: Path, caplog: Remarks) -> None:
    begun = Begun(tmp_path)
    for path in begun.held_out:
        Path(path).unlink()
    now = begun.now()
    assert (paths(now.learn), now.train, now.test) == (begun.learned, None, None)
    assert "12 gone (files)" in caplog.text
    assert f"images holds no image that {begun.run.path} held out, so there are no metrics by labels" in caplog.text


def test_a_renamed_or_relabelled_file_keeps_its_part(tmp_path: Path, caplog: Remarks) -> None:
    begun = Begun(tmp_path)
    held_out, learned = (Path(min(names)) for names in (begun.held_out, begun.learned))
    for path in (held_out, learned):
        path.rename(begun.root / "good" / f"renamed-{path.name}")
    now = begun.now()
    assert f"{begun.root}/good/renamed-{held_out.name}" in paths(now.test)
    assert f"{begun.root}/good/renamed-{learned.name}" in paths(now.learn)
    assert (labels(now.test).count("good"), labels(now.learn).count("good")) == (5, 17)
    assert not remarks(caplog)


def test_a_copy_of_a_test_image_is_in_no_part(tmp_path: Path) -> None:
    begun = Begun(tmp_path)
    shutil.copyfile(min(begun.held_out), begun.root / "good" / "copy.png")
    now = begun.now()
    assert (paths(now.learn), paths(now.test)) == (begun.learned, begun.held_out)
    tuned = begun.finetuned(begun.root)
    assert (paths(tuned.train), paths(tuned.test)) == (begun.learned, begun.held_out)


def test_the_folder_may_lie_elsewhere_and_another_one_is_refused(tmp_path: Path) -> None:
    begun = Begun(tmp_path)
    shutil.copytree(begun.root, tmp_path / "copied", copy_function=shutil.copyfile)  # Other times.
    now = begun.now(root=tmp_path / "copied")
    assert {Path(path).name for path in paths(now.test)} == {Path(path).name for path in begun.held_out}
    for k in range(4):
        draw(tmp_path / "others" / CLASSES[k % 2] / f"{k:02}.png", 100 + k)
    with pytest.raises(InputError, match="others holds none of the images that .*run learned from; give their folder"):
        begun.now(root=tmp_path / "others")


def test_a_test_folder_loses_the_images_that_were_learned_from(tmp_path: Path, caplog: Remarks) -> None:
    for k in range(6):
        draw(tmp_path / "test" / CLASSES[k % 3] / f"{k}.png", 100 + k)
    begun = Begun(tmp_path, test_root=tmp_path / "test")
    assert (len(begun.learned), len(begun.held_out)) == (60, 6)
    shutil.copyfile(min(begun.learned), tmp_path / "test" / "good" / "moved.png")
    assert paths(begun.now().test) == begun.held_out
    assert "1 added" in caplog.text
    other = tmp_path / "other"
    for k in range(6):
        draw(other / CLASSES[k % 3] / f"{k}.png", 200 + k)
    shutil.copyfile(min(begun.learned), other / "good" / "moved.png")
    for now in (begun.now(test_root=other), begun.finetuned(begun.root, other)):
        assert len(paths(now.test)) == 6
        assert f"{other}/good/moved.png" not in paths(now.test)
    assert "holds none of the run's test images: the metrics are of others" in caplog.text
    assert "left out of the test are 1 images that the run learned from" in caplog.text
    with pytest.raises(InputError, match="learned from every image of folder .*; test it on others"):
        begun.finetuned(other, begun.root)


def test_finetuning_holds_out_what_was_not_learned_from(tmp_path: Path, caplog: Remarks) -> None:
    begun = Begun(tmp_path)
    draw(begun.root / "crack" / "000-new.png", 100)
    tuned = begun.finetuned(begun.root)
    assert paths(tuned.test) == begun.held_out
    assert paths(tuned.train) == begun.learned | {f"{begun.root}/crack/000-new.png"}
    mixed = tmp_path / "mixed"
    for k, path in enumerate(sorted(begun.learned)):
        shutil.copy(path, draw(mixed / Path(path).parent.name / f"learned-{k}.png", 0))
    for k in range(15):
        draw(mixed / CLASSES[k % 3] / f"new-{k}.png", 200 + k)
    tuned = begun.finetuned(mixed)
    assert len(paths(tuned.test)) == 3  # A fifth of five new images of each class.
    assert all("new-" in path for path in paths(tuned.test))
    assert not remarks(caplog)


def test_of_a_folder_that_was_learned_from_whole_the_metrics_say_so(tmp_path: Path, caplog: Remarks) -> None:
    begun = Begun(tmp_path, labels="none")
    assert begun.now().test is None
    tuned = begun.finetuned(begun.root)
    assert tuned.test is not None
    assert len(tuned.test) == 12
    assert tuned.test.name.endswith("test part of seed 0, learned from")
    assert "the run learned from every image of folder" in caplog.text


def test_one_image_a_class_is_trained_on_and_none_is_tested(tmp_path: Path, caplog: Remarks) -> None:
    begun, few = Begun(tmp_path), tmp_path / "few"
    for k, name in enumerate(CLASSES):
        draw(few / name / "1.png", 100 + k)
    tuned = begun.finetuned(few)
    assert (len(paths(tuned.train)), tuned.test) == (3, None)
    assert "few holds one image a class, so none is left to test on" in caplog.text
    tuned = begun.finetuned(few, begun.root)  # Of which the run's test images are left.
    assert paths(tuned.test) == begun.held_out


def test_twins_of_learned_images_are_told(tmp_path: Path, caplog: Remarks) -> None:
    draw(tmp_path / "test" / "good" / "a.png", 0)
    draw(tmp_path / "test" / "good" / "b.png", 100)
    begun = Begun(tmp_path, test_root=tmp_path / "test")
    assert paths(begun.now().test) == begun.held_out
    assert "1 test images have the content of one that was learned from; see byolt data check" in caplog.text


def test_a_streamed_set_is_known_by_names_and_sizes(tmp_path: Path, caplog: Remarks) -> None:
    begun = Begun(tmp_path, cache_budget_gb=0)
    draw(begun.root / "crack" / "000-new.png", 100)
    Path(min(begun.held_out)).write_bytes(b"shorter")
    now = begun.now()
    assert paths(now.learn) == begun.learned
    assert paths(now.test) == begun.held_out - {min(begun.held_out)}
    assert "1 added, 1 changed (files)" in caplog.text


def test_images_that_were_packed_are_known_again(tmp_path: Path, caplog: Remarks) -> None:
    begun = Begun(tmp_path)
    pack(begun.root, tmp_path / "shards", 4096)
    shards = {"name": "shards", "root": tmp_path / "shards"}
    packed = Begun(tmp_path / "packed", **shards)
    assert paths(packed.now().learn) == packed.learned
    tuned = packed.finetuned(begun.root)
    assert tuned.test is not None
    assert tuned.test.name.endswith(", learned from")
    draw(begun.root / "crack" / "000-new.png", 100)
    pack(begun.root, tmp_path / "again", 4096)
    assert len(packed.now(root=tmp_path / "again").learn) == 60
    assert "1 added" in caplog.text


def test_a_run_without_a_list_is_told_and_a_damaged_list_refused(tmp_path: Path, caplog: Remarks) -> None:
    begun = Begun(tmp_path)
    begun.run.images_file.write_bytes(begun.run.images_file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"images\.npz is damaged \(.*\): copy it again"):
        begun.now()
    begun.run.images_file.unlink()
    assert paths(begun.now().test) == begun.held_out
    assert "run keeps no list of its images, as an older byolt made it" in caplog.text
    caplog.clear()
    begun.finetuned(begun.root)
    assert len(remarks(caplog)) <= 1  # Told once in a process.


def test_a_set_that_is_fixed_by_its_name_needs_no_list(tmp_path: Path, caplog: Remarks) -> None:
    data = Data.model_validate({"name": "synthetic", "image_size_px": 8, "synthetic_images": 64})
    run = Run(tmp_path / "run")
    keep_run_images(run, open_splits(data, 0), None)
    assert not run.images_file.exists()
    assert len(open_run_splits(run, recipe(data)).learn) == 64
    assert not remarks(caplog)
