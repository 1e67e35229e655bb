"""The largest batch from two, and what memory that runs out says: the batch that it names then really runs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tiny_recipe

from byolt.recipe.load import dump_recipe
from byolt.training import memory
from byolt.training.loop import Parts, prepare
from byolt.training.memory import Line, largest_batch, line_through, rounded, within_memory
from byolt_export.errors import ByoltError

TIGHT = dump_recipe(
    tiny_recipe(
        name="tight",
        data={"image_size_px": 32, "synthetic_images": 1100},
        optim={"batch_size": 1024, "base_lr": 0.2},
        schedule={"epochs": 1},
        machine={"device": "cpu", "threads": 1},
    )
)
# The command under a limit on its address space: 500 MiB more than its imports take.
LIMITED = """if True:
    import resource, sys
    from pathlib import Path
    import byolt.console.summary, byolt.training.loop, byolt.views.grid, timm, torchvision, PIL.Image
    from byolt.cli import main
    words = Path("/proc/self/status").read_text().split()
    used = int(words[words.index("VmSize:") + 1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + 500 * 2**20,) * 2)
    main(sys.argv[1:])
"""


def parts_of(folder: Path, **sections: Any) -> Parts:
    same = {"data": {"cache_dir": folder}, "machine": {"device": "cpu", "threads": 1}}
    return prepare(tiny_recipe(**{name: same.get(name, {}) | sections.get(name, {}) for name in {*same, *sections}}))


def peaks(monkeypatch: pytest.MonkeyPatch, line: Line, room: float, fails_from: int = 10**9) -> list[int]:
    """Steps that take memory by ``line``, and do not fit from a batch on; which batches were tried."""
    tried: list[int] = []

    def peak_of(parts: Parts, batch: int) -> int:
        tried.append(batch)
        if batch >= fails_from:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return int(line.at(batch))

    monkeypatch.setattr(memory, "peak_of", peak_of)
    monkeypatch.setattr(memory, "room_bytes", lambda _: room)
    return tried


def test_what_does_not_depend_on_the_batch_counts_once() -> None:
    # 1,000 fixed and 10 an image: 64 take 1,640 and 128 take 2,280; nine tenths of 10,000 leave 8,000 / 10 images.
    line = line_through(64, 1640, 128, 2280)
    assert line == Line(1000, 10)
    assert line.batch_within(10_000) == 800
    assert line.batch_within(1000) == 0
    assert line_through(64, 1640, 128, 1640) is None


@pytest.mark.parametrize(("accumulate", "batch"), [(1, 1000), (3, 984), (16, 992), (500, 1000)])
def test_a_batch_is_rounded_to_eights_and_whole_parts(accumulate: int, batch: int) -> None:
    recipe = tiny_recipe(optim={"accumulate": accumulate, "batch_size": 2 * 3 * 16 * 500})
    assert rounded(1001, recipe) == batch


def test_the_largest_batch_is_on_the_line_and_no_larger_than_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(tmp_path)
    tried = peaks(monkeypatch, Line(1000, 100), room=6000)
    # 0.9 * 6,000 - 1,000 = 4,400: 44 images, and 40 in eights.
    assert largest_batch(parts) == (40, "by the memory of batches 8 and 16 (0 GB here)")
    assert tried == [8, 16]  # On a CPU none is tried, and the smaller comes first.
    peaks(monkeypatch, Line(1000, 100), room=60_000)
    assert largest_batch(parts) == (64, "by the memory of batches 8 and 16 (all images)")
    peaks(monkeypatch, Line(1000, 0), room=60_000)
    assert largest_batch(parts) == (None, "batches 8 and 16 take the same memory")


def test_on_a_gpu_the_batch_is_tried_and_lowered_until_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of(tmp_path)
    tried = peaks(monkeypatch, Line(1000, 100), room=60_000, fails_from=50)
    parts.learner.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(memory, "forget_peak", lambda _: True)
    # 64, then 16 + 48 * 3 / 4 = 52 and 48 in eights.
    assert largest_batch(parts).batch == 48
    assert tried == [8, 16, 64, 48]


def test_a_fault_of_another_kind_or_another_place_passes(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    with pytest.raises(RuntimeError, match="shapes"), within_memory(parts):
        raise RuntimeError("shapes do not match")
    with pytest.raises(torch.OutOfMemoryError), within_memory(parts):  # As in an evaluation.
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_step_that_does_not_fit_names_the_batch_and_the_parts_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(tmp_path, optim={"batch_size": 64, "accumulate": 1})
    tried: list[tuple[int, int]] = []

    def step(*_: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    def peak_of(parts: Parts, batch: int) -> int:
        tried.append((batch, parts.learner.accumulate))
        if batch // parts.learner.accumulate > 40:
            raise MemoryError
        return 1000 + 100 * batch

    monkeypatch.setattr(parts.learner, "forward", step)
    monkeypatch.setattr(memory, "peak_of", peak_of)
    monkeypatch.setattr(memory, "room_bytes", lambda _: 10**9)
    views = torch.zeros(64, 3, 16, 16)
    with pytest.raises(ByoltError) as told, within_memory(parts):
        parts.learner.step(0, views, views)
    # 8 and 32 run; 56 does not, nor 48 nor 40 + ..., and 64 images go through in two parts.
    assert tried == [(8, 1), (32, 1), (56, 1), (48, 1), (40, 1), (64, 2)]
    assert parts.learner.accumulate == 1
    assert str(told.value) == (
        "out of memory at optim.batch_size 64 with views of 16 px on cpu; give --set optim.batch_size=40, which fits, "
        "or optim.accumulate=2, which keeps the batch but shows BatchNorm parts of it, or machine.recompute=true, "
        "which costs time alone"
    )
    assert told.value.exit_code == 1


def limited(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, "pretrain", "tight.yaml", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.full
def test_a_run_beyond_its_limit_names_a_batch_that_then_runs(tmp_path: Path) -> None:
    (tmp_path / "tight.yaml").write_text(TIGHT)
    done = limited(tmp_path)
    assert done.returncode == 1, done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert said.startswith("out of memory at optim.batch_size 1024 with views of 32 px on cpu; give --set ")
    assert "is whole" in said
    named = re.search(r"optim\.batch_size=(\d+), which fits", said)
    assert named is not None, said
    assert 16 <= int(named[1]) < 1024
    fitting = limited(tmp_path, "--set", f"optim.batch_size={named[1]}")
    assert fitting.returncode == 0, fitting.stderr
