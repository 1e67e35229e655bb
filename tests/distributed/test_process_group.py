"""Several processes learn what one does: twenty steps of every method in float64, and whole runs by the command."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import tiny_recipe
from tests.training.shared_steps import METHODS

from byolt.recipe.load import dump_recipe

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}/toolchain:{ROOT}/export:{ROOT}", "OMP_NUM_THREADS": "1"}


SOME = ["simclr", "moco v2", "mean teacher"]
"""Those whose processes exchange most; `make test-full` has all."""


def launched(processes: int, *words: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *launcher, "-m", *words]


def torchrun(processes: int, *words: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    command = launched(processes, *words)
    return subprocess.run(command, env=ENVIRONMENT, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


def twenty_steps(folder: Path, processes: int, methods: list[str]) -> Path:
    """Twenty steps of each method by so many processes, once a module."""
    out = folder / f"{processes} {methods[0]}"
    if not out.exists():
        out.mkdir()
        words = ["tests.training.shared_steps", str(out), *methods]
        command = launched(processes, *words) if processes > 1 else [sys.executable, "-m", *words]
        done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("method", SOME)
def test_twenty_steps_of_two_processes_are_those_of_one(method: str, folder: Path) -> None:
    assert_equal(method, twenty_steps(folder, 1, SOME), twenty_steps(folder, 2, SOME))


@pytest.mark.full
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_twenty_steps_of_several_processes_are_those_of_one(method: str, processes: int, folder: Path) -> None:
    every = list(METHODS)
    assert_equal(method, twenty_steps(folder, 1, every), twenty_steps(folder, processes, every))


def assert_equal(method: str, of_one: Path, of_several: Path) -> None:
    one, several = (torch.load(out / f"{method}.pt") for out in (of_one, of_several))
    for name, value in one["weights"].items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(
                several["weights"][name], value, rtol=0, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
            )
    for ours, theirs in zip(several["outcome"], one["outcome"], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is None:
            continue
        rows = slice(None) if method != "byol accumulated" else slice(0)  # Its rows lie in another order.
        torch.testing.assert_close(ours if ours.ndim == 0 else ours[rows], theirs if ours.ndim == 0 else theirs[rows])


def written(folder: Path, **sections: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(dump_recipe(tiny_recipe(**sections)))
    return path


def run_of(folder: Path) -> Path:
    (found,) = (folder / "runs").glob("tiny-*")
    return found


SIXTEEN_STEPS: dict[str, Any] = {
    "schedule": {"epochs": 4, "warmup_epochs": 0},
    "evaluation": {"every_epochs": 4, "probe_images": 64},
    "machine": {"device": "cpu", "log_every_steps": 1, "checkpoint_every_s": 0.001},
    "optim": {"base_lr": 0.002},  # Small enough that rounding stays rounding over these steps, on every CPU.
}
"""4 an epoch, a checkpoint after each."""


def workers_after_five_steps(launcher: "subprocess.Popen[bytes]", folder: Path) -> list[int]:
    while not [path for path in folder.glob("runs/tiny-*/checkpoints/step-*") if int(path.stem[5:]) >= 5]:
        assert launcher.poll() is None
        time.sleep(0.01)
    return [int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]


def logged(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run_of(folder) / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


@pytest.mark.full
def test_torchrun_starts_a_run_again_that_lost_a_process(tmp_path: Path) -> None:
    written(tmp_path, **SIXTEEN_STEPS)
    command = launched(2, "byolt", "pretrain", "tiny.yaml")
    command.insert(command.index("--standalone"), "--max-restarts=1")
    with open(tmp_path / "told", "wb") as told:
        launcher = subprocess.Popen(command, env=ENVIRONMENT, cwd=tmp_path, stderr=told)
        os.kill(workers_after_five_steps(launcher, tmp_path)[1], signal.SIGKILL)
        assert launcher.wait() == 0, (tmp_path / "told").read_text()
    assert logged(tmp_path).keys() == set(range(1, 17))
    first, again = [line for line in (run_of(tmp_path) / "train.log").read_text().splitlines() if "from step" in line]
    assert "from step 0 of 16" in first
    assert "from step 0 of 16" not in again


@pytest.mark.full
def test_a_run_killed_in_mid_epoch_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        written(folder, **SIXTEEN_STEPS)
    command = [sys.executable, "-m", "byolt", "pretrain", "tiny.yaml"]
    whole = subprocess.run(command, env=ENVIRONMENT, cwd=straight, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr

    process = subprocess.Popen(launched(2, "byolt", "pretrain", "tiny.yaml"), env=ENVIRONMENT, cwd=killed)
    for worker in workers_after_five_steps(process, killed):
        os.kill(worker, signal.SIGKILL)
    process.wait()
    assert not (run_of(killed) / "result.json").exists()
    resumed = [*command, "--resume", str(run_of(killed).relative_to(killed))]
    rest = subprocess.run(resumed, env=ENVIRONMENT, cwd=killed, capture_output=True, text=True, check=False)
    assert rest.returncode == 0, rest.stderr
    assert run_of(killed).name == run_of(straight).name
    one, several = (load_file(run_of(folder) / "encoder.safetensors") for folder in (straight, killed))
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=1e-3, atol=1e-5)
    ours, theirs = logged(straight), logged(killed)
    assert ours.keys() == theirs.keys() == set(range(1, 17))
    assert theirs == pytest.approx(ours, abs=1e-4)  # Another order of the images would show in each of them.


def test_a_job_started_again_does_not_learn_again_what_ended_by_a_fault_of_learning(tmp_path: Path) -> None:
    written(tmp_path, optim={"base_lr": 1e30}, machine={"device": "cpu", "log_every_steps": 1})
    told = []
    for start in ("0", "1"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        job = {"TORCHELASTIC_RUN_ID": "one job", "TORCHELASTIC_RESTART_COUNT": start, "MASTER_PORT": port}
        job |= {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        command = [sys.executable, "-m", "byolt", "pretrain", "tiny.yaml"]
        done = subprocess.run(command, env=ENVIRONMENT | job, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 3
        told.append(done.stderr.splitlines()[-1])
    assert told[1] == f"not started again: {told[0]}"
    assert (run_of(tmp_path) / "train.log").read_text().count("learning from step") == 1


@pytest.mark.full
def test_more_processes_than_a_batch_goes_to_are_one_sentence(tmp_path: Path) -> None:
    written(tmp_path, optim={"batch_size": 15}, machine={"device": "cpu"})
    done = torchrun(2, "byolt", "pretrain", "tiny.yaml", cwd=tmp_path)
    told = "optim.batch_size 15 in 1 parts (optim.accumulate) does not go to 2 processes in equal shares"
    assert done.stderr.count(told) == 1
    assert f"rank 0: {told}" in done.stderr  # All of them met it.
    assert "exitcode  : 2" in done.stderr
