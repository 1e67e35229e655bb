"""What `make dist` builds: an sdist with everything, and a wheel that works alone in an empty environment."""

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.prefix) / "bin" / "uv"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both files."""
    folder = tmp_path_factory.mktemp("dist") / "dist"
    settings = [f"DIST={folder}", f"VENV={sys.prefix}"]
    subprocess.run(["make", "-o", "install", "dist", *settings], cwd=ROOT, check=True)
    return folder


def test_the_sdist_holds_every_file_of_the_checkout(built: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("this is no checkout")
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked.stdout.splitlines() if (ROOT / name).exists()} - held == set()


def test_the_wheel_alone_checks_a_bundle_after_the_line_that_it_gives(built: Path, tmp_path: Path) -> None:
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "env"], check=True)
    bundle = shutil.copytree(ROOT / "tests" / "golden" / "b5692c5" / "bundle", tmp_path / "bundle")

    def install(*what: str | Path) -> None:
        options = ["--quiet", "--python", tmp_path / "env", "--constraint", ROOT / "requirements.lock"]
        subprocess.run([UV, "pip", "install", *options, *what], cwd=tmp_path, check=True)

    def byolt(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [tmp_path / "env" / "bin" / "byolt", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    install(*built.glob("*.whl"))
    assert "build-engine" in byolt("--help").stdout
    doctor = byolt("doctor")
    assert doctor.returncode == 0, doctor.stderr
    assert '-> pip install "byolt[train]"' in doctor.stdout
    refused = byolt("verify", bundle)
    assert refused.returncode == 5, refused.stderr
    given = re.search(r"ONNX Runtime is not installed: pip install \"(.+?)\"", refused.stderr)
    assert given is not None, refused.stderr
    install(given[1])  # An installer takes extras from the byolt that is installed; no index has it.
    verified = byolt("verify", bundle, "--provider", "CPUExecutionProvider")
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.count("passed") == 3
