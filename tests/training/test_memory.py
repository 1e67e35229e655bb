"""The largest batch on the line of two, and what memory that runs out says."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tiny_recipe

from byolt.library_errors import as_ours
from byolt.recipe.load import dump_recipe
from byolt.recipe.schema import Recipe
from byolt.run import Run
from byolt.training import memory
from byolt.training.checkpoint import load_checkpoint
from byolt.training.dry_run import dry_run
from byolt.training.loop import pretrain
from byolt.training.memory import (
    LargestBatch,
    PeakLine,
    batch_cap,
    largest_batch,
    line_through,
    memory_bytes,
    peak_of_steps,
    within_memory,
)
from byolt.training.online_eval import OnlineEvaluator
from byolt.training.prepare import Parts, prepare
from byolt.training.step import Learner
from byolt_export.errors import ByoltError

CPU = torch.device("cpu")
MIB = 2**20
# The command under a limit on its address space: 500 MiB more than its imports take.
LIMITED = """if True:
    import resource
    from pathlib import Path
    import byolt.console.summary, byolt.training.loop, byolt.views.grid, timm, torchvision, PIL.Image
    from byolt.cli import main
    words = Path("/proc/self/status").read_text().split()
    used = int(words[words.index("VmSize:") + 1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + 500 * 2**20,) * 2)
    main(["pretrain", "tight.yaml"])
"""


def recipe_in(folder: Path, **sections: Any) -> Recipe:
    machine = {"device": "cpu", "threads": 1, "runs_dir": folder / "runs"} | sections.pop("machine", {})
    data = {"cache_dir": folder} | sections.pop("data", {})
    return tiny_recipe(data=data, machine=machine, **sections)


def parts_of(folder: Path, **sections: Any) -> Parts:
    return prepare(recipe_in(folder, **sections))


def measured(monkeypatch: pytest.MonkeyPatch, line: PeakLine, memory_here: int) -> list[int]:
    """Steps whose peaks lie on ``line``; which batches were taken."""
    taken: list[int] = []

    def peak_of_steps(_: Parts, batch: int) -> int:
        taken.append(batch)
        return int(line.fixed_bytes + line.image_bytes * batch)

    monkeypatch.setattr(memory, "peak_of_steps", peak_of_steps)
    monkeypatch.setattr(memory, "memory_bytes", lambda _: memory_here)
    return taken


def test_what_does_not_depend_on_the_batch_counts_once() -> None:
    # 1,000 fixed and 10 per image: 64 take 1,640 and 128 take 2,280; nine tenths of 10,000 leave 8,000 / 10 images.
    line = line_through(64, 1640, 128, 2280)
    assert line == PeakLine(1000, 10)
    assert line.batch_within(10_000) == 800
    assert line.batch_within(1000) == 0
    assert line_through(64, 1640, 128, 1640) is None


def test_the_largest_batch_leaves_the_margin_and_is_no_larger_than_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(tmp_path)
    taken = measured(monkeypatch, PeakLine(1000, 100), 6000)
    # 0.9 * 6,000 - 1,000 = 4,400: 44 images, and 40 in eights.
    assert largest_batch(parts) == (40, "estimated from the peaks of batches 4 and 8 (0.0 GB here)")
    assert taken == [4, 8]  # A quarter and a half of 16; the estimate itself is not tried.
    measured(monkeypatch, PeakLine(1000, 100), 60_000)
    assert largest_batch(parts) == (64, "estimated from the peaks of batches 4 and 8 (no larger one is of use)")
    measured(monkeypatch, PeakLine(1000, 0), 60_000)
    assert largest_batch(parts) == (None, "batch 8 had no higher peak than batch 4")
    small = parts_of(tmp_path, optim={"accumulate": 4})
    assert largest_batch(small).batch is None  # A quarter in four parts would be of one image each.


def test_a_fault_at_a_smaller_batch_ends_no_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the estimate's own: the recipe's batch passes, and says what it needs."""
    taken: list[int] = []
    advance = Learner.advance

    def fails_at_half(self: Learner, *batch: torch.Tensor) -> Any:
        taken.append(len(batch[0]))
        if taken[-1] == 8:
            raise RuntimeError("no kernel for this batch\nand more")
        return advance(self, *batch)

    monkeypatch.setattr(Learner, "advance", fails_at_half)
    told = dry_run(recipe_in(tmp_path), steps=2, warmup_steps=1)
    assert (told.largest_batch, told.largest_because) == (
        None,
        "steps at batches 4 and 8 failed: no kernel for this batch",
    )
    assert taken[:4] == [4, 4, 8, 16]  # None above the recipe's own.
    assert set(taken[3:]) == {16}


def test_the_rehearsals_peak_is_of_the_recipes_own_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wasteful(_: Parts) -> LargestBatch:
        torch.ones(256 * MIB)  # 1 GiB, given back at once.
        return LargestBatch(None, "not tried")

    monkeypatch.setattr("byolt.training.dry_run.largest_batch", wasteful)
    resident_bytes = memory.in_use_bytes(CPU)
    told = dry_run(recipe_in(tmp_path), steps=2, warmup_steps=1)
    assert told.peak_memory_mb < (resident_bytes + 512 * MIB) / 1e6


@pytest.mark.parametrize(("accumulate", "batch"), [(1, 40), (3, 24), (11, 44), (22, 44)])
def test_the_largest_batch_is_a_multiple_of_eight_and_of_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int, batch: int
) -> None:
    parts = parts_of(
        tmp_path, data={"synthetic_images": 200}, optim={"batch_size": 8 * accumulate, "accumulate": accumulate}
    )
    measured(monkeypatch, PeakLine(1000, 100), 6000)  # 44 images.
    assert largest_batch(parts).batch == batch


def test_the_queue_and_the_elements_of_a_tensor_bound_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moco = {"name": "moco_v2", "queue_size": 40, "norm_groups": 2}
    assert batch_cap(parts_of(tmp_path, method=moco)) == 20  # Both views' keys of a part are in it.
    assert batch_cap(parts_of(tmp_path, method=moco, optim={"accumulate": 2})) == 40
    # The largest tensor is the stem's: 64 channels of 16 x 16, 16,384 elements per image.
    monkeypatch.setattr(memory, "_ELEMENTS", 20 * 16_384 + 16_383)
    assert batch_cap(parts_of(tmp_path)) == 20
    assert batch_cap(parts_of(tmp_path, optim={"accumulate": 2})) == 40
    monkeypatch.setattr(memory, "_ELEMENTS", 50 * 3 * 16 * 16)  # The views of all parts are there at once.
    assert batch_cap(parts_of(tmp_path, optim={"batch_size": 64, "accumulate": 32})) == 50


def test_the_peak_of_steps_is_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of(tmp_path)

    def step(_: int, view: torch.Tensor, __: torch.Tensor) -> None:
        torch.ones(len(view) * 2 * MIB)  # 8 MiB per image.

    monkeypatch.setattr(parts.learner, "step", step)
    torch.ones(64 * MIB)  # 256 MiB, given back at once: a peak before that of the steps.
    small, large = peak_of_steps(parts, 4), peak_of_steps(parts, 12)
    assert large - small == pytest.approx(64 * MIB, abs=8 * MIB)


def test_free_memory_comes_on_top_of_what_is_resident_within_the_groups_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kib = {"VmRSS": 100, "MemAvailable": 900}
    monkeypatch.setattr(memory, "kib_of", lambda _, name: kib[name])
    limits = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    monkeypatch.setattr(memory, "_LIMITS", tuple(map(str, limits)))
    assert memory_bytes(CPU) == 1000 * 1024
    limits[0].write_text("max\n")
    assert memory_bytes(CPU) == 1000 * 1024
    limits[1].write_text("5000\n")
    assert memory_bytes(CPU) == 5000


@pytest.mark.gpu
def test_a_gpus_peak_is_what_is_allocated(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, machine={"device": "cuda"})
    assert 0 < peak_of_steps(parts, 4) < peak_of_steps(parts, 8) < memory_bytes(parts.learner.device)


def too_large() -> None:
    torch.empty(2**60, dtype=torch.uint8)  # The CPU's allocator raises a plain RuntimeError.


def gpu_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


@pytest.mark.parametrize("fault", [too_large, gpu_is_full])
def test_a_step_that_does_not_fit_says_what_to_change_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[], None]
) -> None:
    recipe = recipe_in(tmp_path, machine={"checkpoint_every_s": 1e-9})
    steps: list[int] = []
    advance = Learner.advance

    def third_fails(self: Learner, *batch: torch.Tensor) -> Any:
        steps.append(len(steps))
        if len(steps) == 3:
            fault()
        return advance(self, *batch)

    monkeypatch.setattr(Learner, "advance", third_fails)
    monkeypatch.setattr(memory, "in_use_bytes", lambda _: 8500)
    monkeypatch.setattr(memory, "memory_bytes", lambda _: 10_000)
    with pytest.raises(ByoltError) as told:
        pretrain(recipe)
    run = Run(next((tmp_path / "runs").iterdir()))
    # 16 images took the 1,500 that were free, or more; of these the margin of 1,000 leaves a third: 5 images.
    assert str(told.value) == (
        "out of memory in a step at optim.batch_size 16 with views of 16 px on cpu: lower optim.batch_size (at most "
        "about 5 here; --dry-run with a smaller one estimates the largest), or raise optim.accumulate (BatchNorm then "
        "sees parts of a batch), or set machine.recompute=true (the same result in about a third more time); the last "
        f"checkpoint in {run.path} is whole: with other machine keys, and those alone, go on with byolt pretrain "
        f"{run.path}/recipe.resolved.yaml --resume {run.path}"
    )
    assert told.value.exit_code == 1
    assert load_checkpoint(run.checkpoints)["step"] == 2
    wary = recipe.model_copy(update={"machine": recipe.machine.model_copy(update={"recompute": True})})
    pretrain(wary, resume=run.path)
    assert run.result is not None
    assert run.result["step"] == 8


def test_an_evaluation_that_does_not_fit_is_not_blamed_on_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnlineEvaluator, "evaluate", lambda *_: gpu_is_full())
    with pytest.raises(torch.OutOfMemoryError) as raised:
        pretrain(recipe_in(tmp_path))
    told = str(as_ours(raised.value))
    assert told.startswith("the GPU has too little memory for the 2 GiB that it asked for; lower ")
    assert "optim.batch_size" not in told


def test_a_fault_of_another_kind_passes(tmp_path: Path) -> None:
    fault = RuntimeError("shapes do not match")
    with pytest.raises((RuntimeError, ByoltError)) as raised, within_memory(parts_of(tmp_path), None):
        raise fault
    assert raised.value is fault


@pytest.mark.full
def test_a_run_beyond_its_limit_ends_with_one_sentence(tmp_path: Path) -> None:
    tight = tiny_recipe(
        data={"image_size_px": 32, "synthetic_images": 1100},
        optim={"batch_size": 1024},
        schedule={"epochs": 1},
        machine={"device": "cpu", "threads": 1},
    )
    (tmp_path / "tight.yaml").write_text(dump_recipe(tight))
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    told = done.stderr.strip().splitlines()[-1]
    assert told.startswith("out of memory in a step at optim.batch_size 1024 with views of 32 px on cpu: lower")
    assert "is whole" in told
