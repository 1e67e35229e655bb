"""A fault of one process of torchrun's: its sentence with its rank, once, and no library's words from the others."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from tests.distributed.test_process_group import ENVIRONMENT, SIXTEEN_STEPS, launched, workers_after_five_steps, written
from tests.test_command_line import draw_folder

LONG = SIXTEEN_STEPS | {"schedule": {"epochs": 5000, "warmup_epochs": 0}, "evaluation": {"every_epochs": 5000}}


def ended(folder: Path, launcher: "subprocess.Popen[bytes]") -> str:
    """What was told, the launcher's own report of its processes included."""
    assert launcher.wait(120) == 1
    told = (folder / "told").read_text()
    for words in ("gloo", "Connection closed", "c10d", "dist."):
        assert words not in told, told
    return told


@pytest.mark.full
def test_an_image_that_one_process_misses(tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "images", classes=0, images=64, size_px=16)
    folder = {"name": "folder", "root": images, "image_size_px": 16, "cache_budget_gb": 0.0}
    written(tmp_path, **LONG, data=folder | {"synthetic_images": 64})
    with open(tmp_path / "told", "wb") as told:
        launcher = subprocess.Popen(launched(2, "byolt", "pretrain", "tiny.yaml"), env=ENVIRONMENT, cwd=tmp_path,
                                    stderr=told)  # fmt: skip
        workers_after_five_steps(launcher, tmp_path)
        (images / "0007.png").unlink()
    said = ended(tmp_path, launcher)
    (rank,) = re.findall(r"^rank (\d): image \S+0007\.png is gone since the folder was listed; put it back", said, re.M)
    # torchrun's report: the first to end is the one that met it.
    assert re.search(rf"Root Cause.*?rank +: {rank} .*?exitcode +: 2 ", said, re.S), said
    assert said.count("is gone since") == 1


@pytest.mark.full
def test_a_process_that_is_killed_without_a_word(tmp_path: Path) -> None:
    written(tmp_path, **LONG)
    with open(tmp_path / "told", "wb") as told:
        launcher = subprocess.Popen(launched(2, "byolt", "pretrain", "tiny.yaml"), env=ENVIRONMENT, cwd=tmp_path,
                                    stderr=told)  # fmt: skip
        os.kill(workers_after_five_steps(launcher, tmp_path)[1], signal.SIGKILL)
    said = ended(tmp_path, launcher)
    assert said.count("rank 0: another process of the run ended without a word, killed by the system if memory") <= 1
    assert "Signal 9 (SIGKILL) received" in said
