"""A device's install: no torch, perhaps no ONNX Runtime, Python 3.10. `make test-full` makes these environments."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.export.small import build, images

pytestmark = pytest.mark.full

WITH_RUNTIME, PYTHON_310 = "BYOLT_RTX14_PYTHON", "BYOLT_PYTHON310"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light") / "bundle"
    shown = {"calibration": images(200, seed=1), "calibration_source": "drawn", "golden": images(200, seed=2)}
    assert build(folder, precisions=("fp32", "fp16", "int8"), **shown).verdict == "passed"
    return folder


def run(python: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.environ.get(python, "")
    if not path:
        pytest.skip(f"{python} names no interpreter: make test-full")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [path, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd="/")


@pytest.mark.parametrize("python", [WITH_RUNTIME, PYTHON_310])
def test_there_is_no_torch(python: str) -> None:
    assert "No module named 'torch'" in run(python, "-c", "import torch").stderr


def test_the_light_group_runs_on_python_3_10() -> None:
    assert run(PYTHON_310, "--version").stdout.startswith("Python 3.10.")
    assert "No module named 'onnxruntime'" in run(PYTHON_310, "-c", "import onnxruntime").stderr


@pytest.mark.parametrize("python", [WITH_RUNTIME, PYTHON_310])
def test_engines_are_built_and_verified(python: str, made: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(made, tmp_path / "bundle"))
    precisions = "fp32,fp16" if python == WITH_RUNTIME else "fp32,fp16,int8"
    built = run(python, "-m", "byolt", "build-engine", bundle, "--precision", precisions)
    assert built.returncode == 0, built.stderr
    names = [f"encoder.{precision}.rtx.engine" for precision in precisions.split(",")]
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [(e["name"], e["verdict"]) for e in manifest["engines"]] == [(name, "not run here") for name in names]
    verified = run(python, "-m", "byolt", "verify", bundle, "--json")
    verdicts = {file["name"]: file["verdict"] for file in json.loads(verified.stdout)["files"]}
    assert {verdicts[name] for name in names} == {"not run here"}
    if python == WITH_RUNTIME:
        assert (verified.returncode, verdicts["encoder.int8.onnx"]) == (0, "passed")
    else:
        assert verified.returncode == 5
        assert verified.stderr.count("\n") == 1
        assert "ONNX Runtime is not installed" in verified.stderr


def test_a_damaged_engine_is_refused_there_too(made: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(made, tmp_path / "bundle"))
    assert run(WITH_RUNTIME, "-m", "byolt", "build-engine", bundle, "--precision", "fp16").returncode == 0
    os.truncate(bundle / "encoder.fp16.rtx.engine", 1000)
    verified = run(WITH_RUNTIME, "-m", "byolt", "verify", bundle)
    assert verified.returncode == 2
    assert "is not the file that manifest.json names" in verified.stderr
