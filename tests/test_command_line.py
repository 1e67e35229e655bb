"""The commands as a user types them: from images to a proven bundle, faults in one sentence, and exact resume."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from byolt.cli import main

TINY = """\
name: tiny
data: {name: folder, root: ROOT, image_size_px: 16}
views: {view_1: {crop_area: [0.3, 1.0], blur: 0.0}, view_2: {crop_area: [0.3, 1.0], blur: 0.0}}
model:
  backbone: timm/resnet18
  args: {layers: [1, 1, 1, 1], channels: [16, 16, 16, 16]}
  stem: small
  projector: {hidden_dim: 16, out_dim: 8}
  predictor: {hidden_dim: 16, out_dim: 8}
optim: {name: sgd, batch_size: 16, base_lr: 0.2}
schedule: {epochs: 3, warmup_epochs: 1}
evaluation: {every_epochs: 2, probe_images: 64, knn_k: 5}
finetune: {epochs: 1, batch_size: 16}
export: {golden_images: 16, max_batch: 8}
machine: {log_every_steps: 2, threads: 1}
"""


class Done(NamedTuple):
    """What a command left: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def byolt(*arguments: str | Path, folder: Path) -> Done:
    """Run the command line in ``folder``, in this process: importing torch anew costs seconds each time."""
    stdout, stderr = StringIO(), StringIO()
    with chdir(folder), redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as left:
        main(list(map(str, arguments)))
    return Done(int(left.value.code or 0), stdout.getvalue(), stderr.getvalue())


def draw_folder(root: Path, *, classes: int, images: int, size_px: int = 20) -> Path:
    """Images of noise around a colour of their class; with no classes, all in one folder."""
    generator = np.random.default_rng(0)
    for index in range(images):
        label = index % max(classes, 1)
        colour = np.array([60 + 120 * (label % 2), 60 + 60 * label, 120])
        pixels = np.clip(colour + generator.normal(0, 40, (size_px, size_px + 4, 3)), 0, 255).astype(np.uint8)
        folder = root / f"class-{label}" if classes else root
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")
    return root


def write_recipe(folder: Path, root: Path, text: str = TINY) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text.replace("ROOT", str(root)))
    return path


def only_run(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


def one_sentence(done: Done, code: int) -> str:
    """What a fault says: one line on stderr, the exit code, no traceback, nothing on stdout."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr.strip().splitlines()[-1]


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
    knn = json.loads((run / "evaluation" / "encoder.json").read_text())["knn"]
    assert knn["n_test"] + knn["n_train"] == 96
    done = byolt("finetune", "--data", folder / "images", "--labels", "0.5", folder=folder)
    assert done.returncode == 0, done.stderr
    done = byolt("export", folder=folder)
    assert done.returncode == 0, done.stderr + done.stdout
    done = byolt("export", "--classifier", folder=folder)
    assert done.returncode == 0, done.stderr + done.stdout
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


def test_the_next_command_names_the_run_unless_it_is_the_latest(labelled_run: Path, tmp_path: Path) -> None:
    run = only_run(labelled_run).relative_to(labelled_run)
    assert byolt("evaluate", folder=labelled_run).stdout.splitlines()[-1] == "next     byolt export --onnx"
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


def test_two_exports_differ_in_their_engines_alone(labelled_run: Path) -> None:
    """Three precisions and engines of a run, whole camera frames in: the same bytes from one export to the next."""
    pytest.importorskip("tensorrt_rtx_bindings")
    folder, bundle = labelled_run, only_run(labelled_run) / "export"
    settings = ("--set", "export.camera_px=[20,24]", "--set", "export.calibration_images=32")
    command = ("export", "--trt", "--target", "rtx40", "--precision", "fp32,fp16,int8", *settings, "--json")
    found = []
    for _ in range(2):
        done = byolt(*command, folder=folder)
        report = json.loads(done.stdout)
        assert done.returncode == 0, report["reason"]
        verdicts = {file["name"]: file["verdict"] for file in report["files"]}
        assert list(verdicts.values()) == ["passed"] * 3 + ["not run here"] * 3
        manifest = json.loads((bundle / "manifest.json").read_text())
        assert manifest["contract"]["input"]["camera_px"] == [20, 24]
        engines = manifest.pop("engines")
        assert [engine["target"] for engine in engines] == ["rtx40"] * 3
        plain = {path.name: path.read_bytes() for path in bundle.iterdir() if path.suffix in (".onnx", ".safetensors")}
        found.append((manifest, plain, (bundle / "parity.json").read_bytes()))
        assert all(name in (bundle / "parity.html").read_text() for name in verdicts)
    assert found[0] == found[1]
    assert len(found[0][1]) == 4
    frames = byolt("export", "--set", "export.camera_px=[24,20]", folder=folder)
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


def test_unlabelled_folder_goes_all_the_way_to_a_bundle(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=80))
    done = byolt("pretrain", recipe, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kNN" not in done.stdout
    done = byolt("evaluate", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "verdict  healthy" in done.stdout
    assert "linear" not in done.stdout
    assert "frozen   learned encoder: RankMe" in done.stdout
    collapse = json.loads((only_run(tmp_path) / "evaluation" / "collapse.json").read_text())
    assert set(collapse) == {"encoder", "untrained"}
    assert not (only_run(tmp_path) / "evaluation" / "encoder.json").exists()
    done = byolt("export", "--onnx", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "passed"
    bundle = only_run(tmp_path) / "export"
    done = byolt("embed", bundle, tmp_path / "images", "-o", "embeddings.npz", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    by_run = byolt("embed", only_run(tmp_path), tmp_path / "images", "-o", "by-run.npz", folder=tmp_path)
    assert by_run.returncode == 0, by_run.stderr
    with np.load(tmp_path / "embeddings.npz") as ours, np.load(tmp_path / "by-run.npz") as theirs:
        np.testing.assert_allclose(ours["embeddings"], theirs["embeddings"], rtol=1e-3, atol=1e-5)
        assert len(ours["files"]) == 80


def test_a_copied_target_without_predictor_collapses_with_exit_3(tmp_path: Path) -> None:
    draw_folder(tmp_path / "images", classes=0, images=128)
    recipe = write_recipe(tmp_path, tmp_path / "images")
    settings = [
        "method.target=copy",
        "method.predictor=none",
        "schedule.epochs=40",
        "schedule.warmup_epochs=1",
        "evaluation.every_epochs=2",
        "optim.base_lr=2.0",
    ]
    done = byolt("pretrain", recipe, *(part for key in settings for part in ("--set", key)), folder=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "collapsed" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((only_run(tmp_path) / "result.json").read_text())["verdict"] == "complete"
    again = byolt("pretrain", recipe, *(part for key in settings for part in ("--set", key)), folder=tmp_path)
    assert again.returncode == 3


def test_a_non_finite_loss_ends_with_exit_3_and_no_checkpoint_of_it(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=64))
    done = byolt(
        "pretrain", recipe, "--set", "optim.base_lr=1e30", "--set", "schedule.warmup_epochs=0", folder=tmp_path
    )
    assert "not finite" in one_sentence(done, 3)
    state = torch.load(only_run(tmp_path) / "checkpoints" / "last.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["method"].values())


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_in_mid_epoch_and_resumed_is_bit_equal(tmp_path: Path, workers: int) -> None:
    root = draw_folder(tmp_path / "images", classes=0, images=160)
    recipe = write_recipe(tmp_path, root)
    settings = [
        "--set",
        f"machine.workers={workers}",
        "--set",
        "schedule.epochs=15",
        "--set",
        "evaluation.every_epochs=10",
    ]
    straight = byolt("pretrain", recipe, *settings, "--set", "machine.runs_dir=straight", folder=tmp_path)
    assert straight.returncode == 0, straight.stderr
    each_step = ["--set", "machine.checkpoint_every_s=1e-9"]
    command = [sys.executable, "-m", "byolt", "pretrain", str(recipe), *settings, *each_step]
    killed = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    step = wait_for_a_step_in_mid_epoch(tmp_path / "runs", killed, per_epoch=10)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    run = only_run(tmp_path)
    assert not (run / "encoder.safetensors").exists(), f"killed too late, at step {step}"
    done = byolt("pretrain", recipe, *settings, "--resume", run, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (uninterrupted,) = (tmp_path / "straight").iterdir()
    assert (run / "encoder.safetensors").read_bytes() == (uninterrupted / "encoder.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert resumed_from(run) >= step  # Not from the start, which would give the same weights.


def resumed_from(run: Path) -> int:
    """The step that the last start of a run went on from."""
    return int(re.findall(r"learning from step (\d+) of", (run / "train.log").read_text())[-1])


def wait_for_a_step_in_mid_epoch(runs: Path, process: subprocess.Popen[bytes], per_epoch: int) -> int:
    """Wait until a checkpoint inside an epoch lies there."""
    for _ in range(6000):
        found = [int(re.search(r"\d+", path.name)[0]) for path in runs.glob("*/checkpoints/step-*.pt")]  # type: ignore[index]
        inside = [step for step in found if step > per_epoch and step % per_epoch]
        if inside:
            return inside[0]
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)
    raise AssertionError("no checkpoint came")


def test_sigterm_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=160))
    command = [sys.executable, "-m", "byolt", "pretrain", str(recipe), "--set", "schedule.epochs=500"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert f"go on with --resume {only_run(tmp_path).relative_to(tmp_path)}" in stderr
    unfinished = byolt("pretrain", recipe, "--set", "schedule.epochs=500", folder=tmp_path)
    assert "has not ended; go on with --resume" in one_sentence(unfinished, 2)


def test_ctrl_c_with_workers_saves_and_the_run_goes_on_to_the_same_encoder(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=160))
    settings = ["--set", "schedule.epochs=20", "--set", "evaluation.every_epochs=10", "--set", "machine.workers=2"]
    straight = byolt("pretrain", recipe, *settings, "--set", "machine.runs_dir=straight", folder=tmp_path)
    assert straight.returncode == 0, straight.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "byolt", "pretrain", str(recipe), *settings],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does: to the workers too.
    stdout, stderr = process.communicate(timeout=60)
    run = only_run(tmp_path)
    said = one_sentence(Done(process.returncode, stdout, stderr), 130)
    stopped = re.fullmatch(
        r"stopped by SIGINT after step (\d+) of 200; the checkpoint is written, go on with --resume (\S+)", said
    )
    assert stopped is not None, said
    assert tmp_path / stopped[2] == run
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] == int(stopped[1])
    done = byolt("pretrain", recipe, *settings, "--resume", "auto", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert resumed_from(run) == int(stopped[1])
    (uninterrupted,) = (tmp_path / "straight").iterdir()
    assert (run / "encoder.safetensors").read_bytes() == (uninterrupted / "encoder.safetensors").read_bytes()
    log = (run / "train.log").read_text()
    assert byolt("pretrain", recipe, *settings, "--resume", "auto", folder=tmp_path).stdout == done.stdout
    assert (run / "train.log").read_text() == log  # A finished run is printed, not learned again.


def test_a_full_disk_at_a_checkpoint_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path,
        draw_folder(tmp_path / "images", classes=0, images=64),
        TINY.replace("log_every_steps: 2", "log_every_steps: 2, keep_checkpoints: 99"),
    )
    straight = byolt("pretrain", recipe, "--set", "machine.runs_dir=straight", folder=tmp_path)
    assert straight.returncode == 0, straight.stderr
    (uninterrupted,) = (tmp_path / "straight").iterdir()
    first, *later = sorted(path.stat().st_size for path in uninterrupted.glob("checkpoints/step-*.pt"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert later[0] > first + 10_000  # The first holds no momentum yet: it fits, and the next does not.
    resource.setrlimit(resource.RLIMIT_FSIZE, ((first + later[0]) // 2, before[1]))
    try:
        full = byolt("pretrain", recipe, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    run = only_run(tmp_path)
    said = one_sentence(full, 1)
    assert said.startswith("checkpoint of step 8 could not be written to ")
    assert said.endswith(f"make room and go on with --resume {run.relative_to(tmp_path)}")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last.pt", "step-00000000.pt"]
    done = byolt("pretrain", recipe, "--resume", run, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (run / "encoder.safetensors").read_bytes() == (uninterrupted / "encoder.safetensors").read_bytes()


def test_three_faults_of_a_recipe_are_three_lines_and_exit_2(tmp_path: Path) -> None:
    text = (
        TINY.replace("stem: small", "stem: smal")
        .replace("batch_size: 16, base_lr: 0.2", "batch_size: 16, base_lrr: 0.2")
        .replace("schedule: {epochs: 3,", "schedule: {epochs: -3,")
    )
    write_recipe(tmp_path, tmp_path, text)
    done = byolt("pretrain", "tiny.yaml", folder=tmp_path)
    one_sentence(done, 2)
    lines = done.stderr.splitlines()
    places = [line.partition(" ")[0] for line in lines]
    numbers = [1 + text.splitlines().index(next(row for row in text.splitlines() if key in row)) for key in FAULTY]
    assert places == [f"tiny.yaml:{number}:" for number in numbers]
    assert "model.stem: 'smal' is not one of" in lines[0]
    assert "did you mean 'small'" in lines[0]
    assert "optim.base_lrr: unknown key; did you mean 'base_lr'?" in lines[1]
    assert "schedule.epochs: " in lines[2]
    assert not (tmp_path / "runs").exists()


FAULTY = ("smal", "base_lrr", "epochs: -3")


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


def test_faults_are_one_sentence_and_exit_2(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tmp_path / "images")
    assert "images" in one_sentence(byolt("pretrain", recipe, folder=tmp_path), 2)  # The folder is missing.
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("no image")
    assert "texts" in one_sentence(byolt("pretrain", recipe, "--set", f"data.root={texts}", folder=tmp_path), 2)
    root = draw_folder(tmp_path / "images", classes=0, images=32)
    said = one_sentence(byolt("pretrain", recipe, "--set", "optim.batch_size=64", folder=tmp_path), 2)
    assert "optim.batch_size 64 is larger than the set of 32 images" in said
    for index in range(8):
        (root / f"cut-{index}.jpg").write_bytes(jpeg_bytes()[:300])
    said = one_sentence(byolt("pretrain", recipe, folder=tmp_path), 2)
    assert "8" in said
    assert "corrupt_limit" in said


def jpeg_bytes() -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_no_run_yet(tmp_path: Path) -> None:
    assert "no run in runs; start one with" in one_sentence(byolt("evaluate", folder=tmp_path), 2)


@pytest.mark.parametrize("arguments", [("--help",), ("doctor",), ("recipe", "explain")])
def test_light_commands_do_not_import_torch(arguments: tuple[str, ...]) -> None:
    program = f"""if True:
        import sys
        from byolt.cli import cli
        cli.main({list(arguments)!r}, standalone_mode=False)
        sys.exit("torch" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_doctor_names_what_is_here() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "byolt", "doctor", "--json"], capture_output=True, text=True, check=True
    )
    found = {finding["what"]: finding["state"] for finding in json.loads(done.stdout)["findings"]}
    assert "CPU" in found["ONNX Runtime"]
    assert "torch" in found["learning"]


def test_recipe_explain_takes_a_recipe_a_key_both_or_neither(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tmp_path / "images")
    both = byolt("recipe", "explain", recipe, "optim.base_lr", folder=tmp_path)
    assert both.stdout.startswith("optim.base_lr = 0.2  (float; default 0.2; result)\n    Learning rate")
    whole = json.loads(byolt("recipe", "explain", recipe, "--json", folder=tmp_path).stdout)["keys"]
    assert {row["key"]: row["value"] for row in whole}["machine.threads"] == 1
    key = byolt("recipe", "explain", "optim.base_lr", folder=tmp_path)
    assert key.stdout.startswith("optim.base_lr  (float;")
    neither = json.loads(byolt("recipe", "explain", "--json", folder=tmp_path).stdout)["keys"]
    assert [row["key"] for row in neither if row["method"] in ("", "byol")] == [row["key"] for row in whole]
    assert "value" not in neither[0]
    assert "god.yaml not found" in one_sentence(byolt("recipe", "explain", "god.yaml", folder=tmp_path), 2)
    three = byolt("recipe", "explain", recipe, "optim", "data", folder=tmp_path)
    assert three.returncode == 2
    assert "one recipe and one key at most" in three.stderr


def test_dry_run_and_profile_write_no_run(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=64))
    done = byolt("pretrain", recipe, "--dry-run", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["steps"] == 12
    assert told["images_per_s"] > 0
    done = byolt("pretrain", recipe, "--profile", "--json", folder=tmp_path)
    shares = json.loads(done.stdout)["shares"]
    assert shares["forward"] > 0
    assert sum(shares.values()) == pytest.approx(1, abs=0.05)
    assert not (tmp_path / "runs").exists()
