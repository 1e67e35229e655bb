"""A run that is being learned: no second process learns it, and no console that goes away ends it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_command_line import byolt, draw_folder, one_sentence, only_run, write_recipe

LONG = ("--set", "schedule.epochs=2000", "--set", "evaluation.every_epochs=2000")


@pytest.fixture
def live(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """``byolt pretrain`` in its first epochs."""
    recipe = write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=160))
    process = subprocess.Popen(
        [sys.executable, "-m", "byolt", "pretrain", str(recipe), *LONG],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    yield process
    process.kill()
    process.communicate()


def test_a_live_run_is_left_to_its_process_and_taken_from_a_dead_one(
    tmp_path: Path, live: "subprocess.Popen[str]"
) -> None:
    run = only_run(tmp_path).relative_to(tmp_path)
    again = ("pretrain", "tiny.yaml", *LONG)
    for words in (again, (*again, "--resume", run), (*again, "--resume", "auto")):
        said = one_sentence(byolt(*words, folder=tmp_path), 2)
        assert said.startswith(f"{run} is being learned now by process {live.pid} since "), words
        assert "--resume" not in said
    assert f"it is being learned now by process {live.pid}" in one_sentence(byolt("evaluate", folder=tmp_path), 2)
    log = tmp_path / run / "train.log"
    assert log.read_text().count("learning from step") == 1
    os.kill(live.pid, signal.SIGKILL)
    live.communicate()
    short = [word.replace("2000", "1") for word in LONG]
    said = one_sentence(byolt("pretrain", "tiny.yaml", *short, "--resume", run, folder=tmp_path), 2)
    assert "schedule.epochs" in said  # Of another recipe, and no longer of another process.
