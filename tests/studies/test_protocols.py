"""Rows that were measured by another protocol: they are read for their own page, and never stand beside new ones."""

from pathlib import Path

import pytest
from tests.studies.test_study import recipe_in, silent

from byolt.studies.ablations import ablation_arms
from byolt.studies.ledger import PROTOCOL, Ledger, key_of
from byolt.studies.plan import Job
from byolt.studies.runner import RowsMissing, complete, learning_fingerprint
from byolt.studies.study import ablate


def ledger_in(folder: Path, *, protocol: int, linear: float, left_out: str = "") -> Ledger:
    base, ledger = recipe_in(folder), Ledger(folder / "results" / "tiny.csv")
    fingerprint = learning_fingerprint(base)
    for arm in ablation_arms(base, "predictor"):
        if arm.name != left_out:
            job = Job(arm.name, arm.recipe, "study")
            row = {"linear": linear, "state": "finished", "learn_s": 60, "knn": 0.1}
            ledger.append(key_of(job, fingerprint, protocol)._asdict() | row)
    return ledger


def told(folder: Path) -> tuple[set[float], bool]:
    """The accuracies of a page, and whether it says that they are of an earlier protocol."""
    results = ablate(recipe_in(folder), "predictor", seeds=1, results=folder / "results", jobs=1)
    (table,) = results.tables
    return {arm.accuracies[0] for arm in table.arms}, any("an earlier protocol" in note for note in results.notes)


def test_a_page_of_old_rows_is_made_again_and_says_so(tmp_path: Path) -> None:
    ledger_in(tmp_path, protocol=1, linear=0.25)
    assert told(tmp_path) == ({0.25}, True)
    assert not (tmp_path / "runs").exists()  # Nothing was learned.


def test_new_rows_come_first_and_alone(tmp_path: Path) -> None:
    ledger_in(tmp_path, protocol=1, linear=0.25)
    ledger_in(tmp_path, protocol=PROTOCOL, linear=0.5)
    assert told(tmp_path) == ({0.5}, False)


def test_an_old_row_does_not_stand_in_for_one_that_is_missing(tmp_path: Path) -> None:
    ledger_in(tmp_path, protocol=1, linear=0.25)
    ledger = ledger_in(tmp_path, protocol=PROTOCOL, linear=0.5, left_out="none")
    arm = next(arm for arm in ablation_arms(recipe_in(tmp_path), "predictor") if arm.name == "none")
    job, fingerprint = Job(arm.name, arm.recipe, "study"), learning_fingerprint(recipe_in(tmp_path))
    with pytest.raises(RowsMissing):
        complete([job], fingerprint, ledger, at_once=1, on_log=silent, only_read=True)
    assert len(complete([job], fingerprint, ledger, at_once=1, on_log=silent, only_read=True, protocol=1)) == 1
