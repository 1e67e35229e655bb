"""Runs that are killed, stopped or out of room: nothing is lost, and they go on to the same encoder."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.test_command_line import TINY, Done, byolt, draw_folder, one_sentence, only_run, write_recipe


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
    again = f"byolt pretrain {recipe} --set schedule.epochs=500 --resume {only_run(tmp_path).relative_to(tmp_path)}"
    assert again in stderr.partition("go on with ")[2]
    unfinished = byolt("pretrain", recipe, "--set", "schedule.epochs=500", folder=tmp_path)
    assert f"has not ended; go on with {again}" in one_sentence(unfinished, 2)


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
        r"stopped by SIGINT after step (\d+) of 200; the checkpoint is written, go on with .* --resume (\S+)", said
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
    assert said.endswith(f"make room and go on with byolt pretrain {recipe} --resume {run.relative_to(tmp_path)}")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last.pt", "step-00000000.pt"]
    done = byolt("pretrain", recipe, "--resume", run, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (run / "encoder.safetensors").read_bytes() == (uninterrupted / "encoder.safetensors").read_bytes()
