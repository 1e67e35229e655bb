"""Studies: which runs they consist of, how a run is told from another, and what a finished one leaves."""

import csv
import json
import os
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.conftest import tiny_recipe

from byolt.cli import cli
from byolt.locks import sole_writer
from byolt.recipe.load import dump_recipe, with_changes
from byolt.recipe.schema import Recipe
from byolt.run import Run, run_of
from byolt.studies.ledger import COLUMNS, Ledger, key_of
from byolt.studies.plan import Job, jobs_of, method_arm, tuning_arms
from byolt.studies.results import ArmResults, Table
from byolt.studies.runner import answer, complete, learn_and_measure, learning_fingerprint
from byolt.studies.study import StudyContext, _chosen, ablate
from byolt_export.errors import ByoltError, InputError, Stopped

METHODS = {
    "simclr": {"method.temperature": 0.5},
    "moco_v2": {"method.queue_size": 64, "method.norm_groups": 2},
    "mean_teacher": {"method.tau": 0.9, "method.batch_share": 0.5},
}


def recipe_in(folder: Path, **sections: Any) -> Recipe:
    tree: dict[str, Any] = {
        "machine": {"runs_dir": folder / "runs", "threads": 1, "log_every_steps": 2},
        "data": {"name": "synthetic", "image_size_px": 16, "synthetic_images": 64, "cache_dir": folder / "cache"},
        "study": {"methods": METHODS, "labelled_share": 0.5},
        "finetune": {"epochs": 1},
        "evaluation": {"probe_images": 64, "knn_k": 5},
    }
    for name, keys in sections.items():
        tree[name] = tree.get(name, {}) | keys
    return tiny_recipe(**tree)


def silent(line: str) -> None:
    pass


def test_a_set_without_labels_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, data={"labels": "none"})
    with pytest.raises(InputError, match="a study compares by labels"):
        ablate(recipe, "target", seeds=1, results=tmp_path, jobs=1)
    assert not (tmp_path / "runs").exists()


def test_the_setting_of_best_validation_accuracy_is_chosen(tmp_path: Path) -> None:
    base = recipe_in(tmp_path, study={"tuning": {"byol": [{"optim.base_lr": 0.1}, {"optim.base_lr": 0.2}]}})
    ledger = Ledger(tmp_path / "rows.csv")
    context = StudyContext("images", 64, ledger, range(2), 1, silent)
    for arm, accuracy in zip(tuning_arms(base, "byol"), (0.3, 0.5, 0.5), strict=True):
        job = Job("byol", arm.with_seed(1000), "tuning")
        # The best on test images is another one: no choice may look there.
        row = {"validation": accuracy, "linear": 1 - accuracy, "state": "finished", "role": "tuning"}
        ledger.append(key_of(job, "images")._asdict() | row)
    assert _chosen(context, base, "byol").changes == {"optim.base_lr": 0.1}


def test_rows_that_are_there_are_not_run_again(tmp_path: Path) -> None:
    base, ledger = recipe_in(tmp_path), Ledger(tmp_path / "rows.csv")
    jobs = jobs_of([method_arm(base, "byol")], [0, 1], "study")
    for number, job in enumerate(jobs):
        ledger.append(key_of(job, "images")._asdict() | {"linear": number / 2, "state": "finished"})
    rows = complete(jobs, "images", ledger, at_once=1, on_log=silent)
    assert [rows[key_of(job, "images")]["linear"] for job in jobs] == ["0.0", "0.5"]
    assert not (tmp_path / "runs").exists()


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="its columns are not those of a study"):
        Ledger(tmp_path / "rows.csv").rows()


@pytest.mark.parametrize("tail", ["0123abcd,", "0123abcd,p,0.1.0,study,byol,by", "\0\0\0\0"])
def test_half_a_row_is_told_with_its_line_and_an_empty_file_has_none(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "rows.csv"
    path.touch()
    assert Ledger(path).rows() == {}
    Ledger(path).append({"run": "a", "protocol": "b", "byolt": "c"})
    path.write_text(path.read_text() + tail)
    with pytest.raises(InputError, match=r"rows\.csv:3: half a row; remove that line, and its run is learned again$"):
        Ledger(path).rows()


@pytest.mark.parametrize("name", ["byol", "moco_v2", "mean_teacher"])
def test_a_run_is_learned_and_measured(tmp_path: Path, name: str) -> None:
    arm = method_arm(recipe_in(tmp_path), name)
    row = learn_and_measure(Job(name, arm.recipe, "study"))
    assert set(row) <= set(COLUMNS)
    assert row["state"] == "finished"
    for column in ("linear", "knn", "validation"):
        assert 0 <= row[column] <= 1
    assert ("classifier" in row) == (name == "mean_teacher")
    if name == "mean_teacher":
        from byolt.evaluation.finetune_run import load_classifier

        run = run_of(arm.recipe, learning_fingerprint(arm.recipe))
        classifier, classes = load_classifier(run)
        assert len(classes) == 8
        assert row["n_few"] == 32
        for name_, value in run.encoder().state_dict().items():
            assert value.equal(classifier.encoder.state_dict()[name_])


def test_tuning_looks_at_no_test_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    from byolt.studies import measure

    original = measure.evaluation_store
    monkeypatch.setattr(
        measure, "evaluation_store", lambda source, recipe: looked.append(source.name) or original(source, recipe)
    )
    row = learn_and_measure(Job("byol", recipe_in(tmp_path), "tuning"))
    assert 0 <= row["validation"] <= 1
    assert "linear" not in row
    assert all("test" not in name for name in looked)


def test_a_collapsed_run_is_a_row_and_its_encoder_is_measured(tmp_path: Path) -> None:
    recipe = recipe_in(
        tmp_path,
        method={"target": "copy", "predictor": "none"},
        optim={"base_lr": 2.0},
        schedule={"epochs": 30, "warmup_epochs": 1},
        evaluation={"every_epochs": 2},
    )
    row = learn_and_measure(Job("none", recipe, "study"))
    assert (row["state"], row["verdict"]) == ("collapsed", "complete")
    assert row["z_std_ratio"] < 0.1
    assert 0 <= row["linear"] <= 1
    again = learn_and_measure(Job("none", recipe, "study"))  # The run is there: it is measured, not learned.
    assert again == row | {"learn_s": again["learn_s"]}


def test_a_run_whose_loss_is_not_finite_is_a_row_without_metrics(tmp_path: Path) -> None:
    row = learn_and_measure(Job("byol", recipe_in(tmp_path, optim={"base_lr": 1e30, "weight_decay": 1e30}), "study"))
    assert row["state"] == "diverged"
    assert "linear" not in row


def test_a_study_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("byolt.studies.runner.ProcessPoolExecutor", _Inline)
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_recipe(recipe_in(tmp_path)))
    command = ["study", str(path), "--methods", "byol,simclr,mean_teacher", "--seeds", "2", "--json"]
    command += ["--results", str(tmp_path / "results")]
    first = CliRunner(catch_exceptions=False).invoke(cli, command)
    told = json.loads(first.stdout)
    without, labelled = told["tables"]
    assert [arm["name"] for arm in without["arms"]] == ["byol", "simclr"]
    assert set(without["comparisons"]) == {"simclr"}
    assert [arm["name"] for arm in labelled["arms"]][:3] == ["byol, then fine-tuned", "mean_teacher", "supervised"]
    with open(tmp_path / "results" / "tiny.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (2 + 2 + 1)  # Seeds times methods, methods with labels, and fine-tuning.
    byol = {row["seed"]: float(row["linear"]) for row in rows if row["arm"] == "byol" and row["role"] == "study"}
    assert [byol["0"], byol["1"]] == without["arms"][0]["accuracies"]
    page = (tmp_path / "results" / "tiny.md").read_text()
    assert "| byol |" in page
    assert all(f"{sentence[0].upper()}{sentence[1:]}." in page for sentence in without["sentences"])
    for kind in ("svg", "html"):
        assert "byol, then fine-tuned" in (tmp_path / "results" / f"tiny.{kind}").read_text()
    before = (tmp_path / "results" / "tiny.csv").read_bytes()
    again = CliRunner(catch_exceptions=False).invoke(cli, command)
    assert json.loads(again.stdout) == told
    assert (tmp_path / "results" / "tiny.csv").read_bytes() == before


class _Inline(ProcessPoolExecutor):
    """The pool's part in this process: what a pool adds is tested on its own."""

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> "_Inline":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def shutdown(self, *_: Any, **__: Any) -> None: ...

    def submit(self, function: Any, *arguments: Any) -> Any:
        done: Future[Any] = Future()
        done.set_result(function(*arguments))
        return done


@pytest.mark.full
def test_a_stopped_study_begins_no_further_run(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, schedule={"epochs": 500}, evaluation={"every_epochs": 500})
    jobs = jobs_of([method_arm(recipe, "byol")], range(6), "study")

    def stop() -> None:
        while len(list((tmp_path / "runs").glob("*/metrics.jsonl"))) < 2:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Stopped, match="stopped by SIGTERM; rows of finished runs are kept"):
        complete(jobs, learning_fingerprint(recipe), Ledger(tmp_path / "rows.csv"), at_once=2, on_log=silent)
    stopper.join()
    begun = sorted((tmp_path / "runs").iterdir())
    assert len(begun) == 2
    for folder in begun:
        assert "the checkpoint is written" in (folder / "train.log").read_text()
        assert not (folder / "result.json").exists()


@pytest.mark.full  # Two processes that import torch.
def test_two_runs_at_once_in_processes_of_their_own_give_what_one_alone_gives(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, schedule={"epochs": 1})
    jobs = jobs_of([method_arm(recipe, "byol")], [0, 1], "tuning")
    fingerprint = learning_fingerprint(recipe)
    rows = complete(jobs, fingerprint, Ledger(tmp_path / "rows.csv"), at_once=2, on_log=silent)
    elsewhere = recipe_in(tmp_path / "other", schedule={"epochs": 1})
    for job in jobs:
        alone = learn_and_measure(Job("byol", with_changes(elsewhere, {"seed": job.recipe.seed}), "tuning"))
        told = rows[key_of(job, fingerprint)]
        assert float(told["validation"]) == alone["validation"]
        assert float(told["rankme"]) == alone["rankme"]


def test_a_fault_of_a_run_is_one_sentence_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("byolt.studies.runner.ProcessPoolExecutor", _Inline)
    recipe = recipe_in(tmp_path, data={"name": "folder", "root": tmp_path / "gone"})
    with pytest.raises(ByoltError, match="byol, seed 0: .*gone"):
        complete(jobs_of([method_arm(recipe, "byol")], [0], "study"), "x", Ledger(tmp_path / "r.csv"), at_once=1,
                 on_log=silent)  # fmt: skip


def test_a_run_that_another_study_learns_now_is_left_to_it(tmp_path: Path) -> None:
    job = Job("byol", recipe_in(tmp_path), "tuning")
    run = run_of(job.recipe, learning_fingerprint(job.recipe))
    run.path.mkdir(parents=True)
    with sole_writer(run.path, "learned"):
        answered = answer(job, learn_and_measure)
    assert answered.row is None
    assert answered.fault.startswith(f"byol, seed 0: {run.path} is being learned now by process {os.getpid()} since ")
    assert [path.name for path in run.path.iterdir()] == ["run.lock"]


def test_an_arm_with_a_lost_seed_is_not_compared() -> None:
    nan = float("nan")
    arms = [
        ArmResults(name, "", (0, 1, 2), values, ("finished",) * 3)
        for name, values in {"byol": (0.5, 0.52, 0.51), "a": (0.4, 0.41, 0.43), "b": (0.4, nan, 0.4)}.items()
    ]
    table = Table("", "", tuple(arms), "byol")
    assert set(table.comparisons) == {"a"}
    assert "b has a seed whose loss was not finite: it is not compared" in table.sentences
    assert table.comparisons["a"].verdict == "better"


def test_the_run_of_a_row_is_there_to_be_looked_at(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    learn_and_measure(Job("byol", recipe, "tuning"))
    run: Run = run_of(recipe, learning_fingerprint(recipe))
    assert run.encoder_file.exists()
    assert {"projection_rank", "predictor_alignment", "target_distance"} <= set(run.log_records()[0])
    assert "spectrum" in run.log_records()[-1]
