"""A study of starts: what it consists of, what it keeps, and that nothing but a draw's labels trains a classifier."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.conftest import tiny_recipe
from tests.data.test_splits import folder
from tests.evaluation.arrays import coloured_images
from tests.test_command_line import byolt, draw_folder, write_recipe
from tests.test_interrupted import resumed_from
from torch import nn

from byolt.cli import cli
from byolt.evaluation.features import LabelledImages
from byolt.evaluation.few_label_finetune import Setting
from byolt.evaluation.few_labels import draw_of_labels
from byolt.recipe.load import dump_recipe
from byolt.recipe.schema import Recipe
from byolt.studies.starts_ledger import Cell, Images, StartsLedger
from byolt.studies.starts_measure import Encoder, MeasureJob, _FineTuned, _Linear, _Subject
from byolt.studies.starts_plan import STARTS, LabelledSet, Start, Way, budgets_of, labelled_set, starts_of
from byolt.training.signals import StopSignals
from byolt_export.errors import InputError

SHORT = (Setting(0.01, True, 2), Setting(0.01, False, 2))


def recipe_of(root: Path, **sections: Any) -> Recipe:
    data = {"name": "folder", "root": root, "image_size_px": 16} | sections.pop("data", {})
    return tiny_recipe(data=data, **sections)


def test_starts_differ_in_their_initial_weights_alone(tmp_path: Path) -> None:
    recipe = recipe_of(folder(tmp_path / "parts", good=10, crack=10), seed=4)
    scratch, imagenet, byol, both = starts_of(recipe, ["imagenet+byol", "byol", "scratch", "imagenet"])
    assert [one.name for one in (scratch, imagenet, byol, both)] == ["scratch", "imagenet", "byol", "imagenet+byol"]
    assert scratch.recipe.model == byol.recipe.model == recipe.model
    assert imagenet.recipe.model == both.recipe.model == recipe.model.model_copy(update={"init": "imagenet"})
    assert [one.learns for one in (scratch, imagenet, byol, both)] == [False, False, True, True]
    # A recipe that begins from weights of its own: those are the ones.
    own = recipe.model_copy(update={"model": recipe.model.model_copy(update={"init": "file", "init_file": Path("w")})})
    assert [one.recipe.model.init for one in starts_of(own, ["byol", "imagenet+byol"])] == ["random", "file"]


def test_frozen_norms_are_those_of_imagenet_alone(tmp_path: Path) -> None:
    """Random weights have no statistics to keep; a further seed's recipe is read anew, which would refuse the key."""
    recipe = recipe_of(folder(tmp_path / "parts", good=10, crack=10), model={"init": "imagenet", "frozen_norms": True})
    frozen = {start.name: start.with_seed(7).model.frozen_norms for start in starts_of(recipe, STARTS)}
    assert frozen == {"scratch": False, "imagenet": True, "byol": False, "imagenet+byol": True}
    bare = recipe_of(tmp_path / "parts")
    assert starts_of(recipe, ["byol"])[0].recipe == starts_of(bare, ["byol"])[0].recipe  # The same run.


def test_a_start_has_keys_of_its_own(tmp_path: Path) -> None:
    root = folder(tmp_path / "parts", good=10, crack=10)
    model = {"init": "imagenet", "frozen_parts": ["conv1"]}
    recipe = recipe_of(root, model=model, study={"starts": {"byol": {"schedule.epochs": 7, "method.beta": 0.5}}})
    made = {start.name: start.with_seed(3) for start in starts_of(recipe, STARTS)}
    others = {one.schedule.epochs for name, one in made.items() if name != "byol"}
    assert others == {recipe.schedule.epochs}
    assert (made["byol"].schedule.epochs, made["byol"].method.beta) == (7, 0.5)
    assert [one.model.frozen_parts for one in made.values()] == [(), ("conv1",), (), ("conv1",)]
    for own, told in (
        (
            {"data.image_size_px": 8},
            r"study.starts.byol: data.image_size_px is the same for every start; one of its own",
        ),
        ({"schedule.epoch": 8}, r"study.starts.byol: .*epoch"),
    ):
        with pytest.raises(InputError, match=told):
            starts_of(recipe_of(root, study={"starts": {"byol": own}}), ["byol"])
    with pytest.raises(InputError, match="starts: 'scratch' is not one of byol, imagenet\\+byol"):
        recipe_of(root, study={"starts": {"scratch": {"schedule.epochs": 7}}})


def test_every_seed_holds_out_what_the_first_one_does(tmp_path: Path) -> None:
    recipe = recipe_of(folder(tmp_path / "parts", good=10, crack=10), seed=4)
    (start,) = starts_of(recipe, ["byol"])
    assert start.with_seed(4) == start.recipe  # The ordinary run is taken where it is there.
    assert (start.with_seed(5).seed, start.with_seed(5).data.split_seed) == (5, 4)
    apart = recipe_of(tmp_path / "parts", data={"test_root": folder(tmp_path / "test", good=2, crack=2)})
    assert starts_of(apart, ["byol"])[0].with_seed(5).data.split_seed is None


@pytest.mark.parametrize(
    ("names", "told"),
    [(["bylo"], "--starts bylo: known are scratch, .*; did you mean 'byol'"), ([], "--starts: name some of scratch")],
)
def test_unknown_starts_are_refused(tmp_path: Path, names: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        starts_of(recipe_of(tmp_path), names)


def test_starts_of_another_method_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="method.name simsiam: starts are compared with BYOL"):
        starts_of(recipe_of(tmp_path, method={"name": "simsiam"}), ["byol"])


def test_numbers_of_labels() -> None:
    assert budgets_of(None, 240, 2) == (10, 20, 50, 100, 200, 240)
    assert budgets_of(None, 90, 20) == (20, 50, 90)  # At least one image a class.
    assert budgets_of(["all", 50, 10, 50], 240, 2) == (10, 50, 240)
    for labels, told in ([(9,), "--labels 9: 240 training images"], [("ten",), "--labels ten"], [(), "--labels: give"]):
        with pytest.raises(InputError, match=told):
            budgets_of(labels, 240, 10)


def test_a_labelled_folder_beside_an_unlabelled_one(tmp_path: Path) -> None:
    root, beside = folder(tmp_path / "images", a=8), folder(tmp_path / "labelled", good=10, crack=10)
    with pytest.raises(InputError, match="give the images in one sub-folder per class, or a labelled folder beside"):
        labelled_set(recipe_of(root, data={"labels": "none"})).open()
    splits = labelled_set(recipe_of(root, data={"labels": "none"}, study={"labelled_root": beside})).open()
    assert splits.train is not None
    assert splits.test is not None
    assert (len(splits.train), len(splits.test)) == (16, 4)
    with pytest.raises(InputError, match="--test goes with --data"):
        labelled_set(recipe_of(root, study={"labelled_test_root": beside}))


class _Planted:
    """A tiny encoder on 120 images of two classes, 80 of them to train on, of which some labels may be flipped."""

    def __init__(self, results: Path, flipped: np.ndarray | None = None, helping: bool = False) -> None:
        images, labels = coloured_images(120, 2, 16, seed=0)
        self.truth = labels.copy()
        if flipped is not None:
            labels[flipped] = 1 - labels[flipped]
            if helping:  # A corner of the image says its planted class: it is dark in the one whose images are bright.
                images.images[flipped, :8, :8] = 255 * (1 - labels[flipped])[:, None, None, None]
        whole = LabelledImages(images, labels, 2)
        self.train, self.test = whole.subset(np.arange(80)), whole.subset(np.arange(80, 120))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
            self.encoder = nn.Sequential(*layers).eval()
        self.kept = StartsLedger(results, "tiny")
        self.recipe = tiny_recipe()

    def measure(self, way: Way, budget: int, seed: int = 0) -> Cell:
        start = Start("scratch", self.recipe, False)
        images = Images("learned", "train", "test", 80)
        job = MeasureJob(start, seed, way, (budget,), LabelledSet(self.recipe.data, 0), images, self.kept)
        made = {"packages": {}, "processor": "", "commit": None, "started": "2026-01-01"}
        subject = _Subject(job, self.recipe, Encoder(self.encoder, {}), self.train, self.test, StopSignals(), made)
        subject.measure(job.cell(budget), _Linear(subject) if way == "linear" else _FineTuned(subject))
        return job.cell(budget)


@pytest.mark.parametrize("way", ["linear", "finetune"])
def test_no_test_image_and_no_label_outside_of_a_draw_is_looked_at(
    tmp_path: Path, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("byolt.evaluation.few_label_finetune.GRID", SHORT)
    monkeypatch.setattr("byolt.studies.starts_measure.GRID", SHORT)
    monkeypatch.setattr("byolt.studies.starts_ledger.DRAWS", {"linear": 2, "finetune": 1})
    monkeypatch.setattr("byolt.studies.starts_measure.TUNING_DRAWS", {"linear": 2, "finetune": 1})
    ways: list[Way] = ["linear", way] if way == "finetune" else ["linear"]
    plain = _Planted(tmp_path / "plain")
    cell = [plain.measure(one, 10) for one in ways][-1]
    labels = plain.train.labels
    drawn = np.unique([draw_of_labels(labels, 10, (0, draw, role)) for role in (0, 1) for draw in (0, 1)])
    others = np.setdiff1d(np.arange(120), drawn)  # Among them every test image.
    planted = _Planted(tmp_path / "planted", others, helping=False)
    # The same images are drawn: flips keep the classes' numbers only where they are drawn by the truth.
    monkeypatch.setattr(
        "byolt.studies.starts_measure.draw_of_labels", lambda labels, *how: draw_of_labels(plain.train.labels, *how)
    )
    for one in ways:
        planted.measure(one, 10)
    for study in (plain, planted):
        assert study.kept.rows().setting(cell)
    assert planted.kept.rows().setting(cell) == plain.kept.rows().setting(cell)
    (ours, truth), (theirs, flipped) = (kept.read_scores(cell.key) or () for kept in (plain.kept, planted.kept))
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(truth, 1 - flipped)
    told = _Planted(tmp_path / "told", draw_of_labels(labels, 10, (0, 0, 0))[:1])  # One label of the first draw.
    for one in ways:
        told.measure(one, 10)
    assert not np.array_equal(ours, (told.kept.read_scores(cell.key) or ())[0])


def test_a_label_that_would_help_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("byolt.studies.starts_ledger.DRAWS", {"linear": 2})
    test = np.arange(80, 120)
    plain, helped = _Planted(tmp_path / "plain"), _Planted(tmp_path / "helped", test, helping=True)
    cell = plain.measure("linear", 20)
    helped.measure("linear", 20)
    assert helped.kept.rows().setting(cell) == plain.kept.rows().setting(cell)
    rows = helped.kept.rows()
    # A classifier that had seen what the corner says would be right on all; one of the draw's labels is wrong on most.
    assert max(float((rows.of(cell.key, "test", str(draw)) or {})["metric"]) for draw in range(2)) < 0.3


def test_what_is_kept_is_not_measured_again_and_what_is_missing_is(tmp_path: Path) -> None:
    study = _Planted(tmp_path)
    cell = study.measure("linear", 10)
    file, scores = study.kept.ledger.path, study.kept.read_scores(cell.key)
    whole = file.read_text()
    assert len(whole.splitlines()) == 1 + 1 + 20  # Headings, the choice, the draws.
    study.measure("linear", 10)
    assert file.read_text() == whole
    file.write_text("".join(whole.splitlines(keepends=True)[:12]))  # Killed after ten draws.
    assert study.kept.measured(cell, study.kept.rows()) == 10
    study.measure("linear", 10)
    again = study.kept.read_scores(cell.key)
    assert scores is not None
    assert again is not None
    np.testing.assert_array_equal(again[0], scores[0])
    assert len(file.read_text().splitlines()) == 22
    assert cell.key != cell._replace(budget=20).key != cell._replace(seed=1).key
    study.kept.scores_file(cell.key).write_bytes(b"half")
    with pytest.raises(InputError, match=r"\.npz is damaged; remove it, and its draws are measured again"):
        study.kept.read_scores(cell.key)


def test_seeds_have_draws_of_their_own_and_one_choice(tmp_path: Path) -> None:
    study = _Planted(tmp_path)
    cells = [study.measure("linear", 10, seed) for seed in (0, 1)]
    rows = study.kept.ledger.lines()
    assert [row["role"] for row in rows].count("tuning") == 1
    assert len({row["setting"] for row in rows}) == 1
    ours, theirs = (study.kept.read_scores(cell.key) or () for cell in cells)
    assert not np.array_equal(ours[0], theirs[0])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--starts", "byol", "--methods", "byol"), "--methods is of methods: leave it out with --starts"),
        (("--starts", "byol", "--no-tune"), "--tune is of methods: leave it out with --starts"),
        (("--labels", "10"), "--labels is of starts: give --starts too"),
        (("--data", "x"), "--data is of starts: give --starts too"),
    ],
)
def test_options_of_the_other_kind_are_refused(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(dump_recipe(tiny_recipe()))
    done = CliRunner().invoke(cli, ["study", str(recipe), *options])
    assert done.exit_code != 0
    assert told in f"{done.output}{done.exception}"


@pytest.mark.full
def test_the_whole_command_is_stopped_and_goes_on(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "images", classes=2, images=80)
    recipe = write_recipe(tmp_path, root)
    words = ("study", recipe, "--starts", "byol,scratch", "--labels", "8,all", "--seeds", "1", "--jobs", "1")
    words = (*words, "--set", "schedule.epochs=30")
    process = subprocess.Popen(
        [sys.executable, "-m", "byolt", *map(str, words), "--results", "stopped"], cwd=tmp_path, stderr=subprocess.PIPE
    )
    file = tmp_path / "stopped" / "tiny-starts.csv"
    while not list(tmp_path.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert not file.exists()  # It was still learning.
    done, whole = (byolt(*words, "--results", where, "--json", folder=tmp_path) for where in ("stopped", "whole"))
    assert done.returncode == whole.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert resumed_from(run) > 0
    assert "0 runs to learn" in whole.stderr
    assert len(file.read_text().splitlines()) == 1 + 2 * (2 + 20 + 1)
    ours, theirs = (json.loads(one.stdout)["ways"]["linear"] for one in (done, whole))
    assert ours == theirs
    assert [point["budget"] for point in ours["curves"]["byol"]] == [8, 64]
    for kind in ("md", "svg", "html"):
        assert (tmp_path / "stopped" / f"tiny-starts.{kind}").stat().st_size > 0
    assert "One seed tells nothing of the seeds" in ours["recommendation"]
