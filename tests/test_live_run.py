"""A run that is being learned: no second process learns it, and no console that goes away ends it."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.test_command_line import byolt, draw_folder, one_sentence, only_run, write_recipe

LONG = ("--set", "schedule.epochs=2000", "--set", "evaluation.every_epochs=2000")
PRETRAIN = [sys.executable, "-m", "byolt", "pretrain", "tiny.yaml", *LONG]


def folder_with_recipe(folder: Path) -> Path:
    write_recipe(folder, draw_folder(folder / "images", classes=0, images=160))
    return folder


def wait_for_metrics(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    while not list(folder.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None, f"ended with {process.returncode}"
        time.sleep(0.02)


@contextmanager
def hearing_sighup() -> Iterator[None]:
    """A process that is begun inside hears it also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def without_reader(folder: Path, *command: str) -> "subprocess.Popen[bytes]":
    """As ``command 2>&1 | head -1`` is after its first line: nobody reads what it writes."""
    reader, writer = os.pipe()
    os.close(reader)
    with hearing_sighup():
        process = subprocess.Popen(command, cwd=folder, stdout=writer, stderr=writer)
    os.close(writer)
    return process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with_recipe(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """``byolt pretrain`` in its first epochs, which nobody reads."""
    process = without_reader(folder, *PRETRAIN)
    try:
        wait_for_metrics(folder, process)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_live_run_is_left_to_its_process(folder: Path, live: "subprocess.Popen[bytes]") -> None:
    run = only_run(folder).relative_to(folder)
    again = ("pretrain", "tiny.yaml", *LONG)
    for words in (again, (*again, "--resume", run), (*again, "--resume", "auto")):
        said = one_sentence(byolt(*words, folder=folder), 2)
        assert said.startswith(f"{run} is being learned now by process {live.pid} since "), words
        assert "--resume" not in said
    assert f"it is being learned now by process {live.pid}" in one_sentence(byolt("evaluate", folder=folder), 2)
    assert (folder / run / "train.log").read_text().count("learning from step") == 1


def test_it_learned_on_without_a_reader_and_a_closed_terminal_ends_it_with_a_checkpoint(
    folder: Path, live: "subprocess.Popen[bytes]"
) -> None:
    live.send_signal(signal.SIGHUP)  # By the shell.
    live.send_signal(signal.SIGHUP)  # By the system.
    assert live.wait(60) == 129
    log = (only_run(folder) / "train.log").read_text()
    step = torch.load(only_run(folder) / "checkpoints" / "last.pt", weights_only=True)["step"]
    assert step > 0
    assert f"ended: stopped by SIGHUP after step {step} of 20000; the checkpoint is written" in log
    said = one_sentence(byolt("pretrain", "tiny.yaml", *LONG, folder=folder), 2)
    # No process has it any more.
    assert "was started before and has not ended; go on with byolt pretrain tiny.yaml " in said


@pytest.mark.full
def test_a_terminal_that_vanishes_and_a_run_under_nohup(tmp_path: Path) -> None:
    """SIGHUP with EIO in place of a terminal; ignored, the run goes on to its end without one."""
    for number, (ignored, epochs) in enumerate((("", "2000"), ("trap '' HUP; ", "30"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        folder_with_recipe(folder)
        words = " ".join(PRETRAIN).replace("2000", epochs)
        with hearing_sighup():
            child, terminal = pty.fork()
            if child == 0:
                os.execlp("sh", "sh", "-c", f"cd {folder}; {ignored}exec {words}")
        while not list(folder.glob("runs/*/metrics.jsonl")):
            os.read(terminal, 1 << 16)
        os.close(terminal)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == (0 if ignored else 129)
        assert (only_run(folder) / "encoder.safetensors").exists() == bool(ignored)


@pytest.mark.full
@pytest.mark.parametrize("redirected", ["2>&1 | head -1", ">&- 2>&-", "> /dev/full 2>&1"])
def test_a_whole_run_whatever_becomes_of_its_output(tmp_path: Path, redirected: str) -> None:
    folder = folder_with_recipe(tmp_path)
    words = " ".join(PRETRAIN).replace("2000", "2")
    done = subprocess.run(
        ["bash", "-c", f"{words} {redirected}; exit ${{PIPESTATUS[0]}}"], cwd=folder, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (1 if "full" in redirected else 0, b"")
    assert (only_run(folder) / "encoder.safetensors").exists()
