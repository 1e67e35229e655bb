"""Ablations: rows that differ, those that change nothing, and what is said of collapse."""

from pathlib import Path

import pytest
from tests.studies.test_study import recipe_in

from byolt.studies.ablations import NAMES, ablation_arms
from byolt.studies.ledger import Ledger, key_of
from byolt.studies.plan import Job
from byolt.studies.runner import learning_fingerprint
from byolt.studies.study import ablate
from byolt_export.errors import InputError


@pytest.mark.parametrize("name", NAMES)
def test_an_ablation_s_rows_differ_and_begin_from_the_recipe(tmp_path: Path, name: str) -> None:
    base = recipe_in(tmp_path, method={"tau_base": 0.98})
    arms = ablation_arms(base, name)
    keys = {key_of(Job(arm.name, arm.recipe, "study"), "images") for arm in arms}
    assert len(keys) == len(arms) >= 4
    own = key_of(Job("byol", base, "study"), "images")
    assert (own in keys) == (name != "tau")
    assert all(arm.published is None or 0 < arm.published < 80 for arm in arms)


def test_rows_that_change_nothing_are_left_out(tmp_path: Path) -> None:
    views = {f"view_{number}": {"blur": 0.0, "solarize": 0.0} for number in (1, 2)}
    names = [arm.name for arm in ablation_arms(recipe_in(tmp_path, views=views), "augment")]
    assert "no blur and solarization" not in names
    assert "no colour jitter" in names


def test_an_ablation_of_another_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the ablations take BYOL apart"):
        ablation_arms(recipe_in(tmp_path, method={"name": "simclr"}), "tau")
    with pytest.raises(InputError, match="no ablation 'taus'; known are tau, batch"):
        ablation_arms(recipe_in(tmp_path), "taus")


def test_an_ablation_tells_collapse_and_the_rank_correlation(tmp_path: Path) -> None:
    base, path = recipe_in(tmp_path), tmp_path / "results"
    accuracies = {"two layers": 0.6, "linear": 0.5, "none": 0.3, "none, copied target": 0.2}
    fingerprint = learning_fingerprint(base)
    for arm in ablation_arms(base, "predictor"):
        job = Job(arm.name, arm.recipe, "study")
        state = "collapsed" if "none" in arm.name else "finished"
        row = {"linear": accuracies.get(arm.name, 0.1), "state": state, "learn_s": 60, "knn": 0.1}
        Ledger(path / "tiny.csv").append(key_of(job, fingerprint)._asdict() | row)
    metrics = ablate(base, "predictor", seeds=1, results=path, jobs=1)
    (table,) = metrics.tables
    assert "none: called collapsed while it learned in 1 of 1 seeds" in metrics.notes
    assert any("ImageNet" in note for note in metrics.notes)
    order = table.order
    assert order is not None
    assert (order.n, order.rho) == (3, 1.0)  # 72.5, 0.2, 0.1 beside 0.6, 0.3, 0.2.
