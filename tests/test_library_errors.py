"""What a part that is missing and memory that runs out say: one sentence, its exit code, no traceback."""

import subprocess
import sys
from pathlib import Path
from socket import gaierror
from urllib.error import URLError

import numpy as np
import pytest

from byolt.library_errors import as_ours, why_not_fetched
from tests.test_command_line import byolt, draw_folder, one_sentence, write_recipe

# Runs a command in a process in which the named modules cannot be found.
WITHOUT = """if True:
    import sys
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {absent!r}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    sys.meta_path.insert(0, Absent())
    from byolt.cli import main
    main({arguments!r})
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("absent", "arguments", "said"),
    [
        (["torch"], ["pretrain", "tiny.yaml"], 'torch is not installed: pip install "byolt[train]"'),
        (["PIL"], ["data", "check", "images"], 'PIL is not installed: pip install "byolt[train]"'),
    ],
)
def test_a_missing_extra_is_told_with_its_install_line(
    tmp_path: Path, absent: list[str], arguments: list[str], said: str
) -> None:
    write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=32))
    done = run(WITHOUT.format(absent=absent, arguments=arguments), tmp_path)
    assert done.returncode == 5, done.stderr
    assert done.stderr.strip() == said


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    program = WITHOUT.format(absent=["PIL"], arguments=["--debug", "data", "check", "."])
    assert "Traceback" in run(program, tmp_path).stderr


def test_a_module_of_ours_that_is_missing_is_no_fault_of_the_users() -> None:
    assert as_ours(ModuleNotFoundError("No module named 'byolt.nowhere'", name="byolt.nowhere")) is None
    assert as_ours(RuntimeError("shapes do not match")) is None


def test_memory_that_runs_out_is_one_sentence() -> None:
    import torch

    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 ...")):
        fault = as_ours(error)
        assert fault is not None
        assert fault.exit_code == 1
        assert "too little memory" in str(fault)
        assert "\n" not in str(fault)
    assert as_ours(RuntimeError("could not create a primitive")) is not None  # oneDNN's words for it.
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    fault = as_ours(caught.value)
    assert fault is not None
    # Not `[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: ...`.
    assert str(fault).startswith(
        "this machine has too little memory for the 1,152,921,504.6 GB that it asked for; lower "
    )
    with pytest.raises(MemoryError) as wide:
        np.empty(2**59, np.float64)
    assert str(as_ours(wide.value)).startswith(
        "this machine has too little memory for the 4.00 EiB that it asked for; "
    )
    of_gpu = RuntimeError("CUDA error: out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
    assert str(as_ours(of_gpu)).startswith("the GPU has too little memory for the 2.00 GiB that it asked for; ")


def test_why_something_was_not_fetched_is_told_without_its_wrapping() -> None:
    unknown = URLError(gaierror(-3, "Temporary failure in name resolution"))
    assert why_not_fetched(unknown) == "Temporary failure in name resolution"
    assert why_not_fetched(URLError("no host given")) == "no host given"
    assert why_not_fetched(TimeoutError("The read operation timed out\nmore")) == "The read operation timed out"


def test_a_run_beyond_the_machines_memory_ends_with_exit_1(tmp_path: Path) -> None:
    write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=32))
    settings = ["method={name: moco_v2, queue_size: 1000000000}"]  # A queue of 4 PB.
    settings += [f"model.{head}={{hidden_dim: 8, out_dim: 1000000}}" for head in ("projector", "predictor")]
    flags = [word for setting in settings for word in ("--set", setting)]
    said = one_sentence(byolt("pretrain", "tiny.yaml", *flags, folder=tmp_path), 1)
    assert said.startswith("this machine has too little memory")
    assert "take a smaller model" in said
