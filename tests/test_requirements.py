"""Which ONNX Runtime is installed where: one on every machine, and the one for GPUs where it has wheels."""

from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
CPU, GPU = "onnxruntime", "onnxruntime-gpu"
MACHINES = [
    ("x86_64", "linux", "3.10", GPU),
    ("x86_64", "linux", "3.13", GPU),
    ("aarch64", "linux", "3.10", CPU),  # JetPack 6.
    ("aarch64", "linux", "3.11", GPU),
    ("aarch64", "linux", "3.12", GPU),  # JetPack 7.
    ("ppc64le", "linux", "3.12", CPU),
    ("arm64", "darwin", "3.12", CPU),
    ("AMD64", "win32", "3.12", CPU),
    ("x86_64", "darwin", "3.12", CPU),
]


@pytest.mark.parametrize(("processor", "system", "python", "expected"), MACHINES)
def test_one_onnxruntime_for_each_machine(processor: str, system: str, python: str, expected: str) -> None:
    here = {"platform_machine": processor, "sys_platform": system, "python_version": python}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["export"]
    lock = (ROOT / "requirements.lock").read_text().splitlines() if python != "3.10" else extra  # It is for 3.11 on.
    for lines in (extra, lock):
        asked = [Requirement(line) for line in lines if line.startswith("onnxruntime")]
        taken = [one for one in asked if one.marker is not None and one.marker.evaluate(here)]
        assert [one.name for one in taken] == [expected]
        if (processor, expected) == ("aarch64", GPU) and lines is extra:
            assert not taken[0].specifier.contains("1.28.0")  # The first with wheels for it is 1.29.
            assert taken[0].specifier.contains("1.29.0")
