"""Which runs a study has: methods, settings, seeds, and rows that belong to how they were measured."""

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import tiny_recipe
from tests.studies.test_study import recipe_in

from byolt.recipe.load import with_changes
from byolt.run import run_of
from byolt.studies.ledger import key_of
from byolt.studies.plan import Job, jobs_of, method_arm
from byolt.studies.study import study
from byolt_export.errors import InputError


def test_runs_that_differ_in_seed_tau_or_augmentation_are_never_taken_for_one_another(tmp_path: Path) -> None:
    """The fault of an auto-resume that compares some keys: a second seed or a tau goes on with the first one's run."""
    base = recipe_in(tmp_path)
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"method.tau_base": 0.99},
        {"method.tau_schedule": "constant"},
        {"method.predictor": "linear"},
        {"method.predictor_lr_multiplier": 2.0},
        {"views.view_1.jitter": 0.5},
        {"views.view_2.crop_area": [0.5, 1.0]},
        {"optim.base_lr": 0.5},
        {"optim.batch_size": 32},
        {"schedule.epochs": 3},
        {"method.name": "simclr"},
        {"method.name": "simsiam"},
    ]
    recipes = [with_changes(base, change) for change in changes]
    folders = {run_of(recipe, "images").path for recipe in recipes}
    keys = {key_of(Job("arm", recipe, "study"), "images") for recipe in recipes}
    assert len(folders) == len(keys) == len(changes)
    assert key_of(Job("arm", base, "study"), "other images") not in keys


def test_a_row_belongs_to_how_it_was_measured_and_not_to_its_arm_s_name(tmp_path: Path) -> None:
    base = recipe_in(tmp_path)
    row = key_of(Job("byol", base, "study"), "images")
    assert key_of(Job("moving average", base, "study"), "images") == row
    assert key_of(Job("byol", with_changes(base, {"machine.log_every_steps": 7}), "study"), "images") == row
    assert key_of(Job("byol", with_changes(base, {"finetune.epochs": 7}), "study"), "images") == row
    assert key_of(Job("byol", base, "tuning"), "images") != row
    assert key_of(Job("byol", with_changes(base, {"evaluation.knn_k": 7}), "study"), "images") != row
    few = key_of(Job("byol", base, "finetune"), "images")
    assert key_of(Job("byol", with_changes(base, {"finetune.epochs": 7}), "finetune"), "images") != few
    assert key_of(Job("byol", with_changes(base, {"study.labelled_share": 0.3}), "finetune"), "images") != few


def test_methods_share_all_but_what_the_study_says(tmp_path: Path) -> None:
    base = recipe_in(tmp_path, method={"tau_base": 0.97})
    byol, simclr, teacher, alone = (
        method_arm(base, name).recipe for name in ("byol", "simclr", "mean_teacher", "supervised")
    )
    assert byol == base
    assert simclr.method.model_dump() == {"name": "simclr", "temperature": 0.5}
    assert (simclr.data, simclr.views, simclr.model, simclr.optim) == (base.data, base.views, base.model, base.optim)
    expected = {"tau": 0.9, "batch_share": 0.5, "labelled_share": 0.5, "consistency": 100.0}
    assert expected.items() <= teacher.method.model_dump().items()
    assert alone.method.model_dump() == teacher.method.model_dump() | {"consistency": 0.0}


def test_a_setting_that_does_not_fit_names_its_method(tmp_path: Path) -> None:
    base = recipe_in(tmp_path, study={"methods": {"simclr": {"method.tau_base": 0.5}}})
    with pytest.raises(InputError, match=r"study\.methods\.simclr: .*method\.tau_base: unknown key"):
        method_arm(base, "simclr")
    with pytest.raises(InputError, match="--methods barlow: known are byol, mean_teacher"):
        method_arm(base, "barlow")


def test_every_method_tries_the_same_number_of_settings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tuning must try the same number of settings for each method"):
        recipe_in(tmp_path, study={"tuning": {"byol": [{"optim.base_lr": 0.1}], "simclr": []}})


def test_seeds_come_whole_one_after_the_other(tmp_path: Path) -> None:
    arms = [method_arm(recipe_in(tmp_path), name) for name in ("byol", "simclr")]
    assert [(job.recipe.seed, job.arm) for job in jobs_of(arms, [3, 4], "study")] == [
        (3, "byol"), (3, "simclr"), (4, "byol"), (4, "simclr"),
    ]  # fmt: skip


@pytest.mark.parametrize(("named", "near"), [("simclrr", "simclr"), ("moco_v4", "moco_v"), ("supervise", "supervised")])
def test_an_unknown_method_of_a_study_is_told_before_anything_is_decoded(tmp_path: Path, named: str, near: str) -> None:
    recipe = tiny_recipe(data={"name": "folder", "root": tmp_path / "no-such-folder"})
    with pytest.raises(InputError, match=rf"^--methods {named}: known are byol, .*; did you mean '{near}"):
        study(recipe, ["byol", named], results=tmp_path)
    assert list(tmp_path.iterdir()) == []
