"""One labelled run through the commands: a proven classifier, and what may change after learning."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from byolt.evaluation.outcome import outcome_of
from byolt.run import Run
from tests.test_command_line import Done, byolt, draw_folder, one_sentence, only_run, write_recipe


def metrics_of(run: Path, name: str) -> dict[str, Any]:
    """One file of a run's ``evaluation`` folder."""
    found: dict[str, Any] = json.loads((run / "evaluation" / f"{name}.json").read_text())
    return found


@pytest.fixture(scope="module")
def labelled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a tiny run on labelled images has finished."""
    folder = tmp_path_factory.mktemp("labelled")
    recipe = write_recipe(folder, draw_folder(folder / "images", classes=3, images=96))
    done = byolt("pretrain", recipe, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_labelled_folder_to_a_proven_classifier(labelled_run: Path) -> None:
    folder, run = labelled_run, only_run(labelled_run)
    done = byolt("evaluate", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "raw pixels" in done.stdout
    outcome = outcome_of(Run(run))
    assert outcome is not None
    assert f"outcome  {outcome.sentence}" in done.stdout
    assert "test images" in outcome.sentence
    knn = json.loads((run / "evaluation" / "encoder.json").read_text())["knn"]
    assert knn["n_test"] + knn["n_train"] == 96
    done = byolt("finetune", "--data", folder / "images", "--labels", "0.5", folder=folder)
    assert done.returncode == 0, done.stderr
    learned = (run / "result.json").read_text()
    (run / "result.json").write_text(learned.replace('"healthy"', '"dimensional"'))
    done = byolt("export", folder=folder)
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"warning: {run.relative_to(folder)}: few directions carry the representation; " in done.stderr
    (run / "result.json").write_text(learned)
    done = byolt("export", "--classifier", folder=folder)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "warning" not in done.stderr
    norms = json.loads((run / "evaluation" / "norm_statistics-classifier.json").read_text())
    assert norms["images"] == metrics_of(run, "finetune")["n_train"]
    classifier = run / "export-classifier"
    assert f"next     byolt verify {classifier.relative_to(folder)}" in done.stdout
    manifest = json.loads((classifier / "manifest.json").read_text())
    assert manifest["contract"]["classes"] == ["class-0", "class-1", "class-2"]
    encoder = json.loads((run / "export" / "manifest.json").read_text())["contract"]
    assert (encoder["output"]["name"], encoder["recipe_hash"]) == ("embedding", run.name.removeprefix("tiny-"))
    assert byolt("verify", classifier, folder=folder).returncode == 0
    done = byolt("embed", classifier, folder / "images", "-o", "embeddings.npz", folder=folder)
    assert "holds a classifier, whose output are logits" in one_sentence(done, 2)
    assert not (folder / "embeddings.npz").exists()
    for left in (
        "recipe.yaml",
        "recipe.resolved.yaml",
        "environment.json",
        "images.npz",
        "metrics.jsonl",
        "train.log",
        "plots/views.png",
    ):
        assert (run / left).stat().st_size > 0


def test_metrics_are_one_json_line_a_log_step(labelled_run: Path) -> None:
    lines = [json.loads(line) for line in (only_run(labelled_run) / "metrics.jsonl").read_text().splitlines()]
    logged = [line["step"] for line in lines if "lr" in line]
    assert logged == [2, 4, 6, 8, 10, 12]  # 76 images to learn from, 4 steps an epoch, 3 epochs.
    assert all(0 <= line["loss"] <= 8 for line in lines if "lr" in line)
    assert [line["verdict"] for line in lines if "verdict" in line][-1] == "healthy"


def test_the_same_command_again_prints_the_result(labelled_run: Path) -> None:
    again = byolt("pretrain", "tiny.yaml", "--json", folder=labelled_run)
    assert again.returncode == 0
    assert json.loads(again.stdout)["learning"]["state"] == "finished"
    assert len(list((labelled_run / "runs").iterdir())) == 1


@pytest.mark.parametrize(
    "command", [("evaluate",), ("finetune", "--data", "images"), ("export",), ("embed", "RUN", "images", "-o", "a.npz")]
)
def test_after_learning_a_result_key_is_refused(labelled_run: Path, command: tuple[str, ...]) -> None:
    words = [str(only_run(labelled_run)) if word == "RUN" else word for word in command]
    said = one_sentence(byolt(*words, "--set", "optim.base_lr=0.3", folder=labelled_run), 2)
    assert said.startswith("--set optim.base_lr: the run has been learned with another value")


def test_machine_keys_are_followed_after_learning(labelled_run: Path) -> None:
    run, elsewhere = only_run(labelled_run), labelled_run / "elsewhere"
    settings = ["--set", f"data.cache_dir={elsewhere}"]
    done = byolt("embed", run, labelled_run / "images", "-o", "kept.npz", *settings, folder=labelled_run)
    assert done.returncode == 0, done.stderr
    assert list(elsewhere.glob("*.npy"))
    done = byolt("evaluate", run, "--set", "evaluation.knn_k=3", "--json", folder=labelled_run)
    assert json.loads(done.stdout)["encoder"]["knn"]["k"] == 3


def test_what_was_held_out_stays_held_out(labelled_run: Path, tmp_path: Path) -> None:
    """One file more would draw another test part, most of it learned from."""
    run, root = only_run(labelled_run), tmp_path / "images"
    shutil.copytree(labelled_run / "images", root)
    kept = run / "images.npz"
    assert byolt("evaluate", folder=labelled_run).returncode == 0
    before = (run / "evaluation" / "encoder.json").read_text()
    more = draw_folder(tmp_path / "more", classes=0, images=1, size_px=22)
    shutil.copy(more / "0000.png", root / "class-0" / "0000-new.png")
    elsewhere = ("--set", f"data.root={root}")
    done = byolt("evaluate", *elsewhere, folder=labelled_run)
    assert done.returncode == 0, done.stderr
    assert "is not as it was when the run learned from it: 1 added (files)" in done.stderr
    now = (run / "evaluation" / "encoder.json").read_text()
    assert now.replace(f"folder {root}", f"folder {labelled_run / 'images'}") == before
    for command in (("export", *elsewhere), ("finetune", "--data", root)):
        assert byolt(*command, folder=labelled_run).returncode == 0
    tuned = json.loads((run / "evaluation" / "finetune.json").read_text())
    assert (tuned["finetuned"]["n_test"], tuned["n_train"]) == (18, 79)  # 78 were learned from, and one is new.
    aside = kept.rename(tmp_path / kept.name)
    try:
        done = byolt("evaluate", folder=labelled_run)
        assert (done.returncode, done.stderr.count("keeps no list of its images")) == (0, 1)
    finally:
        aside.rename(kept)


@pytest.mark.parametrize("tested", [False, True])
def test_a_classifier_of_one_image_a_class(labelled_run: Path, tmp_path: Path, tested: bool) -> None:
    for k in range(3):
        (tmp_path / "few" / f"class-{k}").mkdir(parents=True)
        shutil.copy(labelled_run / "images" / f"class-{k}" / f"000{k}.png", tmp_path / "few" / f"class-{k}")
    run = shutil.copytree(only_run(labelled_run), tmp_path / "runs" / "tiny-few")
    test = ("--test", draw_folder(tmp_path / "test", classes=2, images=8, size_px=18)) if tested else ()
    done = byolt("finetune", run, "--data", tmp_path / "few", *test, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((run / "evaluation" / "finetune.json").read_text())
    assert (metrics["n_train"], metrics["classes"]) == (3, ["class-0", "class-1", "class-2"])
    if tested:
        assert "test has no test images of class-2: the metrics are of the other classes" in done.stderr
        assert metrics["finetuned"]["n_test"] == 8
    else:
        assert "finetuned" not in metrics
        assert "3 labels, 3 classes; no test images, so no accuracy is known" in done.stdout
        assert byolt("report", run, "--json", folder=tmp_path).returncode == 0
    assert (run / "classifier.safetensors").stat().st_size > 0


def test_the_next_command_names_the_run_unless_it_is_the_latest(labelled_run: Path, tmp_path: Path) -> None:
    run = only_run(labelled_run).relative_to(labelled_run)
    *_, worth, following = byolt("evaluate", folder=labelled_run).stdout.splitlines()
    assert following == "next     byolt export --onnx"
    assert worth.endswith(f"byolt study {run}/recipe.resolved.yaml --starts scratch,byol")
    done = byolt("pretrain", "tiny.yaml", "--set", "machine.runs_dir=other runs", folder=labelled_run)
    (other,) = (labelled_run / "other runs").iterdir()
    assert done.stdout.splitlines()[-1] == f"next     byolt evaluate 'other runs/{other.name}'"
    later = labelled_run / "runs" / "later-0"
    later.mkdir()
    try:
        (later / "recipe.resolved.yaml").write_text((labelled_run / run / "recipe.resolved.yaml").read_text())
        done = byolt("evaluate", run, folder=labelled_run)
        assert done.stdout.splitlines()[-1] == f"next     byolt export {run} --onnx"
        again = byolt("pretrain", "tiny.yaml", folder=labelled_run)
        assert again.stdout.splitlines()[-1] == f"next     byolt evaluate {run}"
    finally:
        shutil.rmtree(later)


def test_another_seed_is_another_run(labelled_run: Path, tmp_path: Path) -> None:
    done = byolt(
        "pretrain", "tiny.yaml", "--set", "seed=1", "--set", f"machine.runs_dir={tmp_path}", folder=labelled_run
    )
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.iterdir()
    assert run.name != only_run(labelled_run).name
    assert (run / "encoder.safetensors").read_bytes() != (only_run(labelled_run) / "encoder.safetensors").read_bytes()


def test_two_exports_differ_in_their_engines_alone(labelled_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three precisions and engines of a run, whole camera frames in: the same bytes from one export to the next.

    But for a CPU's INT8 file that leaves layers out by their time, which is measured: here all take as long.
    """
    monkeypatch.setattr(
        "byolt_export.quantize.int8.times_won_us",
        lambda calibrated, _: dict.fromkeys([layer.name for layer in calibrated.layers], 1.0),
    )
    pytest.importorskip("tensorrt_rtx_bindings")
    folder, bundle = labelled_run, only_run(labelled_run) / "export"
    # Neighbours of a network as small as this one lie closer together than fp16 can tell: of two images each has one.
    few = ("--set", "export.gallery_images=2")
    settings = ("--set", "export.camera_px=[20,24]", "--set", "export.calibration_images=32", *few)
    command = ("export", "--trt", "--target", "rtx40", "--precision", "fp32,fp16,int8", *settings, "--json")
    found = []
    for _ in range(2):
        done = byolt(*command, folder=folder)
        report = json.loads(done.stdout)
        assert done.returncode == 0, report["reason"]
        verdicts = {file["name"]: file["verdict"] for file in report["files"]}
        verdicts.pop("encoder.int8-cpu.onnx", None)  # Made where it keeps enough neighbours.
        assert list(verdicts.values()) == ["passed"] * 3 + ["not run here"] * 3
        manifest = json.loads((bundle / "manifest.json").read_text())
        assert manifest["contract"]["input"]["camera_px"] == [20, 24]
        engines = manifest.pop("engines")
        assert [engine["target"] for engine in engines] == ["rtx40"] * 3
        plain = {path.name: path.read_bytes() for path in bundle.iterdir() if path.suffix in (".onnx", ".safetensors")}
        parity = json.loads((bundle / "parity.json").read_text())
        assert all(file.pop("speeds") for file in parity["files"])  # They alone differ, and their digest.
        assert manifest.pop("speeds")
        assert manifest.pop("parity_sha256")
        found.append((manifest, plain, parity))
        assert all(name in (bundle / "parity.html").read_text() for name in verdicts)
    assert found[0] == found[1]
    assert {"encoder.onnx", "encoder.fp16.onnx", "encoder.int8.onnx", "golden.safetensors"} <= found[0][1].keys()


def test_options_that_do_not_fit_are_refused(labelled_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = labelled_run
    share = byolt("export", "--int8", "safest", folder=folder)
    assert "how much becomes INT8 (safest) is asked for, but no INT8: add int8 to the precisions" in last(share, 2)
    minutes = byolt("export", "--precision", "int8", "--minutes", "3", folder=folder)
    assert "--minutes is of --int8 tuned: add that, or leave it out" in last(minutes, 2)
    openvino = byolt("export", "--openvino", folder=folder)
    assert "--openvino is of INT8: add int8 to --precision, or leave it out" in last(openvino, 2)
    monkeypatch.setitem(sys.modules, "openvino", None)
    openvino = byolt("export", "--openvino", "--precision", "int8", folder=folder)
    assert "OpenVINO is not installed" in last(openvino, 5)
    assert "reading images" not in openvino.stderr
    frames = byolt("export", "--set", "export.camera_px=[24,20]", folder=folder)
    assert "reading images" in frames.stderr
    assert "is 24 x 20 px, but export.camera_px says that frames of 20 x 24 px come in" in last(frames, 2)


def test_without_tensorrt_the_bundle_is_complete_and_the_install_line_told(labelled_run: Path) -> None:
    """Neither flavour can be imported; the ONNX bundle is there all the same."""
    folder, run = labelled_run, only_run(labelled_run)
    program = f"""if True:
        import sys
        for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
            sys.modules[name] = None
        from byolt.cli import main
        main(["export", {str(run)!r}, "--trt", "--precision", "fp32"])
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "is complete but for its engines: TensorRT is not installed: pip install" in done.stderr
    manifest = json.loads((run / "export" / "manifest.json").read_text())
    assert [(f["name"], f["verdict"]) for f in manifest["files"]] == [("encoder.onnx", "passed")]
    assert manifest["engines"] == []


def last(done: Done, code: int) -> str:
    """The sentence on stderr, after lines of progress."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_resume_with_other_settings_names_the_keys(labelled_run: Path) -> None:
    run = only_run(labelled_run)
    settings = ["method.tau_base=0.9", "seed=3", "views.view_1.hue=0.2", "machine.workers=1"]
    done = byolt(
        "pretrain", "tiny.yaml", *(p for key in settings for p in ("--set", key)), "--resume", run, folder=labelled_run
    )
    said = one_sentence(done, 2)
    for part in ("method.tau_base: 0.996 then, 0.9 now", "seed: 0 then, 3 now", "views.view_1.hue: 0.1 then, 0.2 now"):
        assert part in said
    assert "workers" not in said
