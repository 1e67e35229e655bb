"""As in a container: 512 kB of shared memory, a launcher's RANK, no HOME, no stdout. Sentences, whatever happens."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_command_line import draw_folder, only_run, write_recipe

PRETRAIN = f"{sys.executable} -m byolt pretrain tiny.yaml --set machine.log_every_steps=1"
SMALL = "mount -t tmpfs -o size=512k tmpfs /dev/shm && "


def contained(line: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """``line`` by a shell with its own 512 kB of shared memory, the rest as in a container."""
    variables = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    return subprocess.run(
        ["unshare", "-rm", "bash", "-c", SMALL + line],
        cwd=folder,
        env=variables | {"RANK": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    tried = contained("true", tmp_path)
    if tried.returncode:
        pytest.skip(f"no mount namespace here: {tried.stderr.strip()}")
    write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=160))
    return tmp_path


@pytest.mark.full
def test_workers_that_find_no_room_are_refused_and_without_them_the_run_learns(folder: Path) -> None:
    done = contained(f"{PRETRAIN} --set machine.workers=16 >&-", folder)
    assert done.returncode == 1
    alone, refused = done.stderr.splitlines()
    assert alone.startswith("RANK=1, but torchrun did not start this process: it learns alone")
    assert refused.startswith("/dev/shm has 0.5 MB free, and 16 workers need ")
    assert not (folder / "runs").exists()
    done = contained(f"{PRETRAIN} --set machine.workers=0 >&-", folder)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.splitlines()[0] == alone
    assert done.stderr.splitlines()[-1] == "stdout is closed: the result is not shown"
    assert "Traceback" not in done.stderr
    assert (only_run(folder) / "encoder.safetensors").exists()
    for words in ("evaluate", "export --onnx", "report", "doctor"):
        done = contained(f"{sys.executable} -m byolt {words} >&-", folder)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "stdout is closed: the result is not shown"
        assert "Traceback" not in done.stderr


@pytest.mark.full
def test_shared_memory_that_fills_while_it_learns_ends_in_a_sentence(folder: Path) -> None:
    filled = (
        "while ! compgen -G 'runs/*/metrics.jsonl' > /dev/null; do sleep 0.1; done; head -c 1M /dev/zero > /dev/shm/a"
    )
    done = contained(
        f"({filled}) 2> /dev/null & exec {PRETRAIN} --set machine.workers=2 --set schedule.epochs=3000 "
        "--set evaluation.every_epochs=3000 >&-",
        folder,
    )
    assert done.returncode == 1, done.stderr
    assert "a worker's batch found no place in shared memory (No space left on device" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
