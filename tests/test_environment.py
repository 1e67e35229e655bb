"""What is kept of how a result was made: the commit, also of a copy without .git, and the GPU."""

import shutil
import subprocess
from pathlib import Path

import pytest

from byolt import environment as module
from byolt.environment import environment
from byolt_export.cuda import Gpu

FILE = Path(module.__file__)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of byolt's checkout without .git, within a repository of something else."""
    copy = tmp_path / "other" / "byolt"
    (copy / "toolchain" / "byolt").mkdir(parents=True)
    (copy / "pyproject.toml").touch()
    for words in (["init", "--quiet"], ["-c", "user.name=n", "-c", "user.email=e", "commit", "--allow-empty", "-qmx"]):
        subprocess.run(["git", "-C", str(copy.parent), *words], check=True)
    monkeypatch.setattr(module, "__file__", str(copy / "toolchain" / "byolt" / FILE.name))
    monkeypatch.delenv("BYOLT_COMMIT", raising=False)
    return copy


def test_a_copy_without_git_has_the_commit_that_it_was_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment()["commit"] is None  # Not that of the repository around it.
    monkeypatch.setenv("BYOLT_COMMIT", "")
    assert environment()["commit"] is None
    monkeypatch.setenv("BYOLT_COMMIT", "1234567890ab")
    assert environment()["commit"] == "1234567890ab"


def test_git_knows_better_than_what_is_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(checkout.parent / ".git", checkout / ".git")
    head = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout
    monkeypatch.setenv("BYOLT_COMMIT", "1234567890ab")
    assert environment()["commit"] == head[:12]
    monkeypatch.setenv("PATH", "")  # Without git.
    assert environment()["commit"] == "1234567890ab"


def test_the_first_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, name in (((), None), ((Gpu("NVIDIA H100", 90), Gpu("NVIDIA T4", 75)), "NVIDIA H100")):
        monkeypatch.setattr("byolt_export.cuda.find_gpus", lambda found=found: (None, found))
        assert environment()["gpu"] == name
