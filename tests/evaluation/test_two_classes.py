"""Two classes end to end: the area under the ROC curve beside accuracy, in metrics, terminal and report."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import tiny_recipe
from tests.data.tiny_sets import write_solar

from byolt.console.summary import print_against, print_finetune, print_summary
from byolt.data import open_splits, solar
from byolt.evaluation.evaluate import evaluate
from byolt.evaluation.finetune_run import finetune
from byolt.evaluation.predictions import compare, read_predictions
from byolt.evaluation.roc import area_difference_on_test_set, area_on_test_set
from byolt.reporting.tables import accuracies, finetuning
from byolt.run import Run
from byolt.training.loop import pretrain


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on a package of 96 cells that stands in for `solar`."""
    folder = write_solar(tmp_path / "packages", 96)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr(solar, "CONTENT", solar.content_digest(folder))
    machine = {"runs_dir": tmp_path / "runs", "threads": 1}
    recipe = tiny_recipe(data={"name": "solar", "cache_dir": tmp_path}, schedule={"epochs": 1}, machine=machine)
    return pretrain(recipe)


def test_evaluation_compares_areas_and_shows_them(
    run: Run, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    metrics = evaluate(run)
    test = open_splits(run.recipe.data, 0).test
    assert test is not None
    kept = read_predictions(run)
    np.testing.assert_array_equal(kept.labels, test.labels)
    for probe in ("knn", "linear"):
        margins = kept.answers[probe].margins
        assert margins is not None
        assert metrics["encoder"][probe]["auc"] == area_on_test_set(margins, kept.labels)
        np.testing.assert_array_equal(kept.answers[probe].predicted, margins > 0)
        tested = metrics["encoder"]["against"]["pixels"][probe]["auc"]
        ours, theirs = (metrics[name][probe]["auc"]["area"] for name in ("encoder", "pixels"))
        assert tested["difference"] == pytest.approx(ours - theirs)
    against = compare(run, run)
    assert against["linear"]["auc"] == area_difference_on_test_set(margins, margins, kept.labels)._asdict()
    print_summary(run, next_command="")
    print_against(against)
    told = capsys.readouterr().out
    area = metrics["encoder"]["linear"]["auc"]
    assert f"{area['area']:.1%}  [{area['interval_95'][0]:.1%}, {area['interval_95'][1]:.1%}]" in told
    assert told.index("24 test images") < told.index("area under the ROC curve")
    assert "points of the area under the ROC curve [95 %], DeLong's p 1" in told
    assert f"{area['area']:.1%}" in accuracies(run).rows[0]["AUC, linear probe"]
    # The images are those that the run learned from.
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    # Where one class is far more frequent, the area comes first.
    for name in ("encoder", "untrained", "pixels", "colours"):
        one = run.metrics(name)
        assert one is not None
        run.write_metrics(name, one | {"knn": one["knn"] | {"chance": 0.7}})
    print_summary(run, next_command="")
    told = capsys.readouterr().out.partition("\nfrozen")[2]
    assert told.index("area under the ROC curve") < told.index("24 test images")
    assert list(accuracies(run).rows[0])[1].startswith("AUC, kNN")


def test_fine_tuning_compares_areas_and_shows_them(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(40):
        folder = tmp_path / "labelled" / ("good", "bad")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(k).integers(0, 100, (20, 20, 3), np.uint8)
        Image.fromarray(noise + np.uint8(40 * (k % 2))).save(folder / f"{k}.png")
    (metrics,) = finetune(run, tmp_path / "labelled", overrides=["finetune.epochs=1"])
    for name in ("probe", "scratch"):
        ours, theirs = (metrics[key]["auc"]["area"] for key in ("finetuned", name))  # type: ignore[literal-required]
        assert metrics["against"][name]["auc"]["difference"] == pytest.approx(ours - theirs)
    print_finetune([metrics], "")
    assert "DeLong's" in capsys.readouterr().out
    assert f"{metrics['probe']['auc']['area']:.1%}" in finetuning(run).rows[0]["AUC [95 % interval]"]
