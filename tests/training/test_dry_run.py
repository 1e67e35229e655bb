"""What a few steps say of the whole run: each size of the views by its epochs, and the run's own device."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tiny_recipe

from byolt.data.sampler import Batch
from byolt.methods.base import Outcome
from byolt.recipe.schema import Recipe
from byolt.training.cuda_graph import Stepper
from byolt.training.dry_run import PHASES, advice, dry_run
from byolt.training.prepare import prepare
from byolt_export.errors import TrainingFault


def growing(folder: Path, **machine: Any) -> Recipe:
    """4 steps an epoch; 7 of 10 epochs see views of 8 px, the last 3 of 32 px."""
    return tiny_recipe(
        data={"cache_dir": folder},
        views={"size_px": 32, "early_size_px": 8},
        schedule={"epochs": 10, "warmup_epochs": 0},
        machine={"device": "cpu", "threads": 1} | machine,
    )


def test_early_and_late_views_weigh_by_their_epochs(tmp_path: Path) -> None:
    told = dry_run(growing(tmp_path))
    assert [(s.view_size_px, s.epochs, s.steps) for s in told.stages] == [(8, 7, 28), (32, 3, 12)]
    early, late = told.stages
    assert early.images_per_s > late.images_per_s  # 16 times the pixels.
    assert told.finish_s == pytest.approx(28 * 16 / early.images_per_s + 12 * 16 / late.images_per_s)
    assert told.images_per_s == pytest.approx(40 * 16 / told.finish_s)
    assert "at   32 px" in told.to_text()
    assert told.advice == []
    assert told.largest_because in told.to_text()


def test_each_stage_takes_steps_of_its_own_size_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    step = Stepper.step

    def noted(self: Stepper, number: int, batch: Batch) -> Outcome:
        outcome = step(self, number, batch)
        seen.append((number, self.recipe.view_size_px_of(batch.epoch)))
        return outcome

    monkeypatch.setattr(Stepper, "step", noted)
    dry_run(growing(tmp_path))
    assert seen == [(k, 8) for k in range(24)] + [(28 + k, 32) for k in range(12)]


@pytest.mark.parametrize(
    ("optim", "what"),
    [({"base_lr": 1e30}, "the loss is"), ({"base_lr": 1e36}, "the loss is"), ({"weight_decay": 1e37}, "the loss is")],
)
def test_a_loss_that_is_not_finite_ends_it(tmp_path: Path, optim: dict[str, float], what: str) -> None:
    recipe = growing(tmp_path).model_copy(update={"optim": growing(tmp_path).optim.model_copy(update=optim)})
    with pytest.raises(TrainingFault, match=f"^{what} not finite by step [0-9]+; lower optim.base_lr") as fault:
        dry_run(recipe, steps=4, warmup_steps=1)
    assert fault.value.exit_code == 3


def test_memory_is_that_of_the_runs_device_on_a_machine_with_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 0)
    told = dry_run(growing(tmp_path), profiled=True)
    assert told.device == "cpu"
    assert told.peak_memory_mb > 100  # torch alone is more.
    assert "MB of the process" in told.to_text()
    assert sum(told.shares.values()) == pytest.approx(1, abs=0.05)
    assert told.shares["forward"] > 0.05
    assert all(f"advice         {sentence}" in told.to_text() for sentence in told.advice)


@pytest.mark.gpu
def test_on_a_gpu_the_shares_are_of_its_kernels(tmp_path: Path) -> None:
    told = dry_run(growing(tmp_path, device="cuda"), profiled=True)
    assert told.device == "cuda"
    assert 0 < told.shares["forward"] + told.shares["backward"] < 1
    assert told.shares["backward"] > 0  # Its kernels are launched from a thread of autograd's.


def test_advice_names_the_key_of_what_is_slow_and_nothing_else(tmp_path: Path) -> None:
    busy = dict.fromkeys((*PHASES, "host"), 0.0) | {"forward": 0.4, "backward": 0.6}
    waiting, drawing = busy | {"data": 0.5}, busy | {"views": 0.5}
    parts = prepare(growing(tmp_path))
    assert advice(busy, parts) == []
    assert advice(waiting, parts) == ["waiting for images takes 50% of a step: more machine.workers"]
    assert advice(drawing, parts) == []  # Small views are quicker on the batched backend.
    (said,) = advice(busy, prepare(growing(tmp_path, channels_last=False)))
    assert said.startswith("machine.channels_last=true")
    streamed = growing(tmp_path)
    streamed = streamed.model_copy(update={"views": streamed.views.model_copy(update={"size_px": 96})})
    (said,) = advice(drawing, prepare(streamed))
    assert "views.backend=albumentations" in said
