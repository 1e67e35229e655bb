"""The GPU's tests can be collected where only the packages of a GPU machine's image are, and a few that are carried."""

import subprocess
import sys
from pathlib import Path

import pytest

# What the lock has and such an image has not, by the name that it is imported under.
LACKING = [
    *("albumentations", "albucore", "beartype", "hatchling", "importlinter", "mypy", "openvino", "pillow_heif", "s3fs"),
    *("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"),
]
COLLECT = f"""if True:
    import sys
    sys.modules.update(dict.fromkeys({LACKING}))  # To import one of them is an ImportError.
    import pytest
    sys.exit(pytest.main(["-m", "gpu", "--collect-only", "-q"]))
"""


@pytest.mark.full
def test_the_gpus_tests_are_collected_without_what_a_gpu_machine_lacks() -> None:
    root = Path(__file__).resolve().parents[1]
    texts = {file.name: file.read_text() for file in (root / "tests").rglob("test_*.py") if file != Path(__file__)}
    # Those that run engines are left out without TensorRT.
    marked = {name for name, text in texts.items() if "mark.gpu" in text and "tests.export.engines" not in text}
    done = subprocess.run([sys.executable, "-c", COLLECT], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    found = [line for line in done.stdout.splitlines() if "::" in line]
    assert {Path(line.partition("::")[0]).name for line in found} == marked
