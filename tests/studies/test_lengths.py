"""Methods over lengths: what is chosen where, what is told of runs that have ended, and whether a gap narrows."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.reporting.pages import Page
from tests.studies.test_study import _Inline, recipe_in, silent

from byolt.cli import cli
from byolt.recipe.load import dump_recipe
from byolt.recipe.schema import Recipe
from byolt.studies.ledger import Ledger, key_of
from byolt.studies.lengths import _left, _of_length, _settings, study_lengths
from byolt.studies.lengths_results import LengthsResults
from byolt.studies.plan import Job, method_arm, tuning_arms
from byolt.studies.results import ArmResults, Table
from byolt.studies.runner import learning_fingerprint
from byolt.studies.study import StudyContext
from byolt_export.errors import InputError

TUNING = {"tuning": {"byol": [{"optim.base_lr": 0.1}, {"optim.base_lr": 0.2}]}}


def tuned(ledger: Ledger, recipe: Recipe, epochs: int, accuracies: dict[int, float]) -> None:
    """Tuning rows of BYOL's settings, by their places."""
    for place, accuracy in accuracies.items():
        arm = _of_length(tuning_arms(recipe, "byol")[place], epochs)
        row = {"validation": accuracy, "role": "tuning", "arm": "byol", "epochs": epochs, "state": "finished"}
        ledger.append(key_of(Job("byol", arm.with_seed(1000), "tuning"), "images")._asdict() | row)


def chosen(context: StudyContext, recipe: Recipe) -> dict[int, Any]:
    return {n: arm.changes.get("optim.base_lr") for n, arm in _settings(context, recipe, "byol", (1, 2, 4)).items()}


def test_the_best_two_are_tried_again_and_the_better_stays(tmp_path: Path) -> None:
    recipe, ledger = recipe_in(tmp_path, study=TUNING), Ledger(tmp_path / "rows.csv")
    context = StudyContext("images", 64, ledger, range(2), 1, silent)
    tuned(ledger, recipe, 1, {0: 0.3, 1: 0.5})
    assert chosen(context, recipe) == {}  # One is still missing.
    tuned(ledger, recipe, 1, {2: 0.4})
    assert chosen(context, recipe) == {1: 0.1}
    tuned(ledger, recipe, 2, {0: 0.9, 1: 0.6})  # That of place 0 is not among the best two.
    assert chosen(context, recipe) == {1: 0.1}
    tuned(ledger, recipe, 2, {2: 0.7})
    assert chosen(context, recipe) == {1: 0.1, 2: 0.2, 4: 0.2}
    assert _settings(context, recipe, "byol", (1, 2, 4))[4].recipe.schedule.epochs == 4


def test_the_estimate_counts_what_is_missing(tmp_path: Path) -> None:
    recipe, ledger = recipe_in(tmp_path, study=TUNING), Ledger(tmp_path / "rows.csv")
    context = StudyContext("images", 64, ledger, range(2), 1, silent)
    tuned(ledger, recipe, 1, {0: 0.3, 1: 0.5})
    # A setting at 1, two at 2, two seeds of each.
    assert _left(context, recipe, {"byol": (1, 2, 4)}) == {1: 3, 2: 4, 4: 2}


def arm(name: str, *accuracies: float) -> ArmResults:
    return ArmResults(name, "", tuple(range(len(accuracies))), accuracies, ("finished",) * len(accuracies))


def results(*tables: tuple[int, tuple[ArmResults, ...]]) -> LengthsResults:
    made = tuple(Table(f"{epochs} epochs", "linear probe", arms, "byol") for epochs, arms in tables)
    return LengthsResults("x", "Methods over lengths", made, (), {}, "", 0.5, tuple(epochs for epochs, _ in tables))


def test_how_a_gap_moves_by_hand() -> None:
    """What byol gains less what the other gains: 5, 6 and 7 points; 6 -/+ 4.3027 x 1 / sqrt(3) = 3.52 to 8.48."""
    study = results(
        (4, (arm("byol", 0.30, 0.31, 0.32), arm("simclr", 0.40, 0.41, 0.43), arm("simsiam", 0.2, 0.2, 0.2))),
        (16, (arm("byol", 0.45, 0.47, 0.49), arm("simclr", 0.50, 0.51, 0.53))),
        (48, (arm("byol", 0.60, 0.61), arm("simclr", 0.58, 0.57))),
    )
    narrows, turns = study.gaps
    assert (narrows.first, narrows.last, narrows.theirs) == (4, 16, "simclr")
    assert (narrows.before, narrows.after) == pytest.approx((0.31 - 1.24 / 3, 0.47 - 1.54 / 3))
    assert narrows.change[1:4] == pytest.approx((0.06, 0.06 - 0.0248414, 0.06 + 0.0248414), abs=1e-6)
    assert narrows.change.family == 1
    assert narrows.sentence == (
        "byol less simclr is -10.3 points at 4 epochs and -4.3 at 16: the gap narrows, a change of +6.0 points "
        "[3.5, 8.5] over 3 seeds"
    )
    # Over the two seeds of both lengths: gains 30 and 30 against 18 and 16.
    assert (turns.change.n, turns.before, turns.after) == pytest.approx((2, -0.10, 0.03))
    assert turns.change.difference == pytest.approx(0.13)
    assert turns.verdict == "changes sides" if turns.change.low > 0 else "not told apart"


@pytest.mark.parametrize(
    ("late", "verdict"),
    [((0.20, 0.21, 0.23), "widens"), ((0.40, 0.33, 0.31), "not told apart"), ((0.50, 0.51, 0.53), "changes sides")],
)
def test_a_gap_in_a_word(late: tuple[float, ...], verdict: str) -> None:
    study = results(
        (4, (arm("byol", 0.30, 0.31, 0.32), arm("a", 0.4, 0.4, 0.4))),
        (8, (arm("byol", *late), arm("a", 0.4, 0.4, 0.4))),
    )
    (gap,) = study.gaps
    assert gap.verdict == verdict
    assert ("not told apart from none" in gap.sentence) == (verdict == "not told apart")


def test_seeds_that_move_alike_prove_nothing() -> None:
    study = results(
        (4, (arm("byol", 0.25, 0.25), arm("a", 0.5, 0.5))), (8, (arm("byol", 0.5, 0.5), arm("a", 0.5, 0.5)))
    )
    (gap,) = study.gaps
    assert gap.verdict == "not told apart"
    assert gap.sentence.endswith("the same change at each of 2 seeds, and no spread to draw an interval from")
    assert results((4, (arm("byol", 0.3), arm("a", 0.4))), (8, (arm("byol", 0.5), arm("a", 0.5)))).gaps == []


def ended(ledger: Ledger, recipe: Recipe, epochs: int, linear: dict[str, tuple[float, ...]]) -> None:
    """Rows of the methods' own settings, a seed after the other, as if they had been learned."""
    fingerprint = learning_fingerprint(recipe)
    for name, accuracies in linear.items():
        arm = _of_length(method_arm(recipe, name), epochs)
        for seed, accuracy in enumerate(accuracies):
            row = {"arm": name, "role": "study", "epochs": epochs, "state": "finished", "learn_s": 60}
            row |= {"linear": accuracy, "knn": accuracy}
            ledger.append(key_of(Job(name, arm.with_seed(seed), "study"), fingerprint)._asdict() | row)


def told_of(folder: Path, recipe: Recipe, *options: str) -> dict[str, Any]:
    path = folder / "tiny.yaml"
    path.write_text(dump_recipe(recipe))
    command = ["study", str(path), "--json", "--results", str(folder), *options]
    told = CliRunner(catch_exceptions=False).invoke(cli, command)
    assert not list(folder.glob("runs/*"))
    return dict(json.loads(told.stdout))


def test_what_is_told_of_runs_that_have_ended(tmp_path: Path) -> None:
    recipe, ledger = recipe_in(tmp_path), Ledger(tmp_path / "tiny.csv")
    ended(ledger, recipe, 2, {"byol": (0.30, 0.31, 0.32), "simclr": (0.40, 0.41, 0.42)})
    ended(ledger, recipe, 4, {"byol": (0.45, 0.47, 0.49), "simclr": (0.50, 0.51)})
    ended(ledger, recipe, 8, {"byol": (0.6,)})
    told = told_of(tmp_path, recipe, "--methods", "byol,simclr:4,simsiam:2", "--epochs", "8,2,4", "--no-learn")
    assert told["lengths"] == [2, 4, 8]
    arms = [{one["name"]: one["accuracies"] for one in table["arms"]} for table in told["tables"]]
    assert arms == [
        {"byol": [0.30, 0.31, 0.32], "simclr": [0.40, 0.41, 0.42]},
        {"byol": [0.45, 0.47], "simclr": [0.50, 0.51]},  # The seeds that both have.
        {"byol": [0.6]},
    ]
    unfinished = [note for note in told["notes"] if note.startswith("Not finished: ")]
    assert unfinished == [
        "Not finished: byol at 8 epochs, 1 of 3 seeds.",
        "Not finished: simclr at 4 epochs, 2 of 3 seeds.",
        "Not finished: simsiam at 2 epochs, 0 of 3 seeds.",
    ]
    (gap,) = told["gaps"]
    page = (tmp_path / "tiny-epochs.md").read_text()
    assert f"- {gap['sentence'][0].upper()}{gap['sentence'][1:]}." in page
    assert "| byol | 31.0 +/- 1.0 (3) | 46.0 +/- 1.4 (2) | 60.0 (1) |" in page
    assert "| simclr | 41.0 +/- 1.0 (3) | 50.5 +/- 0.7 (2) |  |" in page
    report = Page((tmp_path / "tiny-epochs.html").read_text())
    report.stands_alone()
    assert {"lengths", "sentences", "comparisons"} <= report.sections
    assert gap["sentence"] in report.text
    chart = (tmp_path / "tiny-epochs.svg").read_text()
    assert all(f">{text}<" in chart for text in ("byol", "simclr", "epochs", "2", "4", "8"))
    assert "simsiam" not in chart


@pytest.mark.full  # Fourteen short runs.
def test_a_study_of_lengths_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("byolt.studies.runner.ProcessPoolExecutor", _Inline)
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_recipe(recipe_in(tmp_path, study={"tuning": {"byol": [{"optim.base_lr": 0.1}]}})))
    command = ["study", str(path), "--methods", "byol,simclr:2", "--epochs", "3,1,2", "--seeds", "2", "--json"]
    command += ["--results", str(tmp_path)]
    first = CliRunner(catch_exceptions=False).invoke(cli, command)
    assert first.stderr.splitlines()[0].startswith("14 runs to learn, 24 epochs of about ")
    told = json.loads(first.stdout)
    with open(tmp_path / "tiny.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    made = [(row["role"], row["arm"], row["epochs"], row["seed"]) for row in rows]
    stages = [
        [("tuning", "byol", "1", "1000")] * 2,
        [("study", name, "1", seed) for name in ("byol", "simclr") for seed in "01"],
        [("tuning", "byol", "2", "1000")] * 2,
        [("study", name, "2", seed) for name in ("byol", "simclr") for seed in "01"],
        [("study", "byol", "3", seed) for seed in "01"],
    ]
    ends = list(itertools.accumulate(map(len, stages)))
    assert [sorted(made[end - len(stage) : end]) for end, stage in zip(ends, stages, strict=True)] == stages
    assert len(made) == ends[-1]
    linear = {row["seed"]: float(row["linear"]) for row in rows if row["epochs"] == "3"}
    assert told["tables"][2]["arms"][0]["accuracies"] == [linear["0"], linear["1"]]
    again = CliRunner(catch_exceptions=False).invoke(cli, [*command, "--no-learn"])
    assert json.loads(again.stdout) == told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--epochs", "1,x"], "--epochs: 'x' is no number of epochs"),
        (["--epochs", "2,4", "--methods", "simclr"], "byol is what the others are tested against"),
        (["--epochs", "2,4", "--methods", "byol,simclr:1"], "--epochs of simclr: whole numbers from 1 on"),
        (["--epochs", "2,4", "--methods", "byol,mean_teacher"], "mean_teacher: it learns from labels"),
        (["--epochs", "2,4", "--no-tune"], "--tune is of one length"),
        (["--no-learn"], "--no-learn is of lengths: give --epochs too"),
        (["--epochs", "2", "--starts", "scratch"], "--epochs is of methods: leave it out with --starts"),
        (["--epochs", "2", "--no-learn", "--methods", "byol"], "no run of these methods and lengths has ended"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, options: list[str], said: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_recipe(recipe_in(tmp_path)))
    command = ["study", str(path), "--results", str(tmp_path / "results"), *options]
    with pytest.raises(InputError, match=said):
        CliRunner(catch_exceptions=False).invoke(cli, command)
    assert not list(tmp_path.glob("runs/*"))


def test_lengths_begin_together(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--epochs of simclr begin with 2, byol's with 1"):
        study_lengths(recipe_in(tmp_path), {"byol": [1, 2], "simclr": [2]}, results=tmp_path)
