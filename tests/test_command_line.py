"""The commands as a user types them: from images to a proven bundle, faults in one sentence, and exact resume."""

import json
import subprocess
import sys
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


@pytest.mark.parametrize("words", [("data", "check", "~/images"), ("recipe", "show", "~/tiny.yaml")])
def test_a_tilde_that_no_shell_expanded_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=3))
    assert byolt(*words, folder=tmp_path).returncode == 0
    said = one_sentence(byolt(*words[:-1], "~nobody-here/x", folder=tmp_path), 2)
    assert said.endswith("no home folder is known for ~nobody-here/x; write the path in full")


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
        assert (str(ours["made_by"]), str(theirs["made_by"])) == ("encoder.onnx", "encoder.safetensors")
    refused = byolt("embed", bundle, "images", "-o", "c.npz", "--gallery", "by-run.npz", folder=tmp_path)
    assert refused.returncode == 2
    assert "the gallery was made by encoder.safetensors, and encoder.onnx runs now" in refused.stderr


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
