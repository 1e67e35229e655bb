"""Several processes learn what one does: twenty steps of every method in float64, and whole runs by the command."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.shared_steps import METHODS

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}/toolchain:{ROOT}/export:{ROOT}", "OMP_NUM_THREADS": "1"}


def torchrun(processes: int, *words: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "-m",
        *words,
    ]
    return subprocess.run(command, env=ENVIRONMENT, cwd=cwd, capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "-m", "tests.training.shared_steps", str(out)]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.full)])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(f"of{request.param}")
    done = torchrun(request.param, "tests.training.shared_steps", str(out))
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("method", METHODS)
def test_twenty_steps_of_several_processes_are_those_of_one(method: str, alone: Path, together: Path) -> None:
    one, several = (torch.load(folder / f"{method}.pt") for folder in (alone, together))
    for name, value in one["weights"].items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(
                several["weights"][name], value, rtol=0, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
            )
    for ours, theirs in zip(several["outcome"], one["outcome"], strict=True):
        rows = slice(None) if method != "byol accumulated" else slice(0)  # Its rows lie in another order.
        torch.testing.assert_close(ours if ours.ndim == 0 else ours[rows], theirs if ours.ndim == 0 else theirs[rows])
