"""The report says what the run's files say, holds what it shows, and is of whatever there is."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tests.conftest import tiny_recipe
from tests.reporting.pages import Page

from byolt.cli import cli
from byolt.console.summary import CHANCE
from byolt.evaluation.evaluate import evaluate
from byolt.evaluation.outcome import outcome_of
from byolt.files import read_json, write_json
from byolt.reporting.charts import PALETTE
from byolt.reporting.embeddings import nearest
from byolt.reporting.report import report
from byolt.run import Run
from byolt.training.loop import pretrain
from byolt_export.errors import InputError

HOSTILE = "<img src=x onerror=alert(1)>&amp;"
ODD = "_a $b$ \u4e2d"  # What matplotlib would leave out, set as a formula, or has no letter for.
PLAIN = "plain"
BY_LABELS = {"accuracies", "finetuning", "confusion"}
ALWAYS = {"curves", "dynamics", "views", "neighbours", "map", "metrics", "made"}


def draw_folder(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for number, name in enumerate((HOSTILE, ODD, PLAIN)):
        (root / name).mkdir(parents=True)
        for index in range(20):
            pixels = rng.integers(0, 120, (16, 16, 3)) + 45 * np.eye(3, dtype=np.int64)[number] * 3
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def learn(folder: Path, **data: Any) -> Run:
    images = {"name": "folder", "root": draw_folder(folder / "images"), "cache_dir": folder / "cache"}
    recipe = tiny_recipe(
        machine={"runs_dir": folder / "runs", "threads": 1, "log_every_steps": 1, "device": "cpu"}, data=images | data
    )
    return pretrain(recipe)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with every metric that a run can have."""
    run = learn(tmp_path_factory.mktemp("labelled"))
    evaluate(run)
    interval: dict[str, Any] = {"accuracy": 0.625, "interval_95": [0.5, 0.75], "n_test": 12}
    metrics = dict.fromkeys(("probe", "finetuned", "scratch"), interval)
    run.write_metrics(
        "finetune", {**metrics, "n_train": 24, "data": "folder <b>", "test": "test", "protocol": "all weights"}
    )
    file = {"name": "encoder.onnx", "precision": "fp32", "verdict": "not run here", "reason": "no <i>GPU</i>"}
    write_json(run.bundle / "manifest.json", {"files": [file], "engines": []})
    report(run)
    return run


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = learn(tmp_path_factory.mktemp("unlabelled"), labels="none")
    evaluate(run)
    report(run)
    return run


def page_of(run: Run) -> Page:
    return Page((run.path / "report.html").read_text(encoding="utf-8"))


def test_a_labelled_run_has_every_section_and_the_page_needs_nothing(labelled: Run) -> None:
    page = page_of(labelled)
    page.stands_alone()
    assert page.sections == ALWAYS | BY_LABELS | {"collapse", "parity"}
    assert {"Loss, drawn", "Map of the embeddings, drawn", "Where the linear probe errs, drawn"} <= page.charts.keys()
    assert len(page.html) < 5_000_000
    assert "Left out" not in page.text


def test_an_unlabelled_run_has_nothing_of_labels(unlabelled: Run) -> None:
    page = page_of(unlabelled)
    page.stands_alone()
    assert page.sections == ALWAYS | {"collapse"}
    for word in ("kNN", "accuracy", "class", "linear probe", PLAIN):
        # The resolved recipe names its keys, whatever the run was given.
        assert word not in page.text.partition("How it was made")[0]
    assert str(unlabelled.path.parent) not in page.text.partition("How it was made")[0]
    assert "z-std ratio (1 = even)" in page.charts["Spread of the projections (z-std), drawn"]


def test_names_cannot_mark_up_the_page(labelled: Run) -> None:
    page = page_of(labelled)
    assert "onerror" not in page.html.replace("&lt;img src=x onerror=alert(1)&gt;&amp;amp;", "")
    assert HOSTILE in page.text  # As text, whole, where there is room.
    for text in (ODD, "folder <b>", "no <i>GPU</i>"):
        assert text in page.text
    drawn = page.charts["Map of the embeddings, drawn"]
    assert ODD in drawn
    assert f"{HOSTILE[:23]}\u2026" in drawn


def test_its_numbers_are_those_of_the_run(labelled: Run) -> None:
    page = page_of(labelled)
    encoder, collapse, result = labelled.metrics("encoder") or {}, labelled.metrics("collapse") or {}, labelled.result
    assert result is not None
    expected = [(result["rankme"], ".1f"), (collapse["encoder"]["rankme"], ".1f")]
    expected += [(collapse["encoder"][key], ".2f") for key in ("alignment", "uniformity")]
    expected += [(record["loss"], ".3f") for record in labelled.log_records() if "rankme" in record]
    for kind in ("knn", "linear"):
        expected += [(value, ".1%") for value in (encoder[kind]["accuracy"], *encoder[kind]["interval_95"])]
    assert {(repr(value), format(value, form)) for value, form in expected} <= set(page.values)
    assert f"tiny {labelled.hash}" in page.text
    for key, result_key in (("optim.base_lr", True), ("data.labels", True), ("machine.threads", False)):
        assert (f"<strong><code>&bull; {key}</code></strong>" in page.html) == result_key
        assert key in page.text
    assert f"Verdict: {result['verdict']}" in page.text


def test_chance_stands_beside_what_was_learned(labelled: Run) -> None:
    page, encoder = page_of(labelled), labelled.metrics("encoder") or {}
    chance = encoder["knn"]["chance"]
    assert chance == pytest.approx(1 / 3)  # Three classes with as many test images each.
    assert CHANCE in page.text
    assert (repr(chance), "33.3%") in page.values
    assert "test accuracy, chance 33.3%" in page.text
    assert "chance" in page.charts["kNN accuracy while learning, drawn"]


def test_eight_colours_are_told_apart() -> None:
    assert len(PALETTE) == 8
    lab = np.array([_lab(colour) for colour in PALETTE])
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)[np.triu_indices(8, 1)]
    assert apart.min() > 25  # CIE 1976; 2.3 is just seen.


def _lab(colour: str) -> np.ndarray:
    """CIE L*a*b* of an sRGB colour, white D65."""
    values = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]) @ linear
    x, y, z = np.cbrt(xyz / np.array([0.9505, 1.0, 1.0888]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_the_command_writes_the_same_bytes_again_and_prints_the_path(labelled: Run) -> None:
    path = labelled.path / "report.html"
    first = path.read_bytes()
    done = CliRunner().invoke(cli, ["report", "--runs-dir", str(labelled.path.parent)])
    assert done.output == f"{path}\n"
    assert path.read_bytes() == first


def test_an_unfinished_run_has_a_report_with_its_state(labelled: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(labelled.path, tmp_path / labelled.path.name)))
    (run.path / "result.json").unlink()
    run.encoder_file.unlink()
    shutil.rmtree(run.path / "evaluation")
    shutil.rmtree(run.bundle)
    lines = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_text("".join(lines[:2]) + '{"step": 3, "ep')  # A kill leaves half a line.
    written = report(run)
    page = page_of(run)
    page.stands_alone()
    assert page.sections == {"curves", "dynamics", "views", "made"}
    assert "unfinished: this is what there was when the report was written" in page.text
    assert "Verdict" not in page.text
    (reason,) = written.left_out
    assert "has no encoder yet" in reason
    assert reason in page.text


def test_a_run_that_has_just_started_has_one_too(labelled: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "tiny-00000000")
    run.path.mkdir()
    shutil.copy(labelled.path / "recipe.resolved.yaml", run.path)
    report(run)
    assert page_of(run).sections == {"made"}


def without_curves(run: Run, folder: Path) -> Run:
    """A copy whose page is quick to make."""
    copy = Run(Path(shutil.copytree(run.path, folder / run.path.name)))
    (copy.path / "metrics.jsonl").unlink()
    return copy


def test_the_banner_says_what_came_out(labelled: Run, unlabelled: Run) -> None:
    for run, words in ((labelled, "(kNN on 12 test images: "), (unlabelled, "without labels nothing more can be told")):
        outcome = outcome_of(run)
        assert outcome is not None
        assert words in outcome.sentence
        assert outcome.sentence in " ".join(page_of(run).text.split())


def test_a_collapsed_run_says_so_with_advice(labelled: Run, tmp_path: Path) -> None:
    run = without_curves(labelled, tmp_path)
    run.encoder_file.unlink()
    result = read_json(run.path / "result.json") or {}
    write_json(run.path / "result.json", result | {"state": "collapsed", "verdict": "complete"})
    report(run)
    words = " ".join(page_of(run).text.split())
    assert "collapsed; Verdict: complete \u2013 complete collapse" in words
    assert "keep BYOL's `method.predictor: mlp` and `method.target: ema`" in words
    assert "collapsed by step" in words  # Why there is nothing of its encoder.


def test_images_that_changed_since_are_told(labelled: Run, tmp_path: Path) -> None:
    run = without_curves(labelled, tmp_path)
    write_json(run.path / "environment.json", run.environment | {"images": "0" * 64})
    report(run)
    assert "The fingerprint of these images is not the one" in page_of(run).text
    assert "The fingerprint of these images" not in page_of(labelled).text


def test_test_images_that_are_gone_leave_out_the_errors_alone(
    labelled: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise InputError("the test images are gone")

    monkeypatch.setattr("byolt.reporting.embeddings.confusion_section", gone)
    run = without_curves(labelled, tmp_path)
    assert report(run).left_out == ("errors by class: the test images are gone",)
    page = page_of(run)
    assert "neighbours" in page.sections
    assert "confusion" not in page.sections


def test_images_that_are_gone_leave_the_rest(labelled: Run, tmp_path: Path) -> None:
    run = without_curves(labelled, tmp_path)
    done = CliRunner().invoke(cli, ["report", str(run.path), "--set", f"data.root={tmp_path / 'gone'}", "--json"])
    told = json.loads(done.stdout)
    assert told["report"] == str(run.path / "report.html")
    assert "gone" in told["left_out"][0]
    assert page_of(run).sections == (BY_LABELS - {"confusion"}) | {"collapse", "views", "parity", "made"}


def test_no_such_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "nowhere")])
    assert isinstance(done.exception, InputError)
    assert "is not a run's folder" in str(done.exception)
    done = CliRunner().invoke(cli, ["report", "--runs-dir", str(tmp_path)])
    assert "no run in" in str(done.exception)


def test_neighbours_by_cosine_without_itself() -> None:
    # Cosines with the first: (1, 0).(3, 4) / 5 = 0.6, (1, 0).(4, 3) / 5 = 0.8, and -1; lengths do not count.
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [40.0, 30.0], [-2.0, 0.0]])
    cosines, order = nearest(rows, 2)
    assert order[0].tolist() == [2, 1]
    assert cosines[0].tolist() == pytest.approx([0.8, 0.6])
    assert all(row not in order[row] for row in range(4))
