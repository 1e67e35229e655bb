"""The loop in one process: what a run leaves, and how it ends when it was killed or goes wrong."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.conftest import tiny_recipe

from byolt.run import Run
from byolt.schema import Recipe
from byolt.training.learner import Learner
from byolt.training.loop import pretrain
from byolt_export.errors import TrainingFault


def recipe_in(folder: Path, **sections: Any) -> Recipe:
    machine = {"runs_dir": folder / "runs", "threads": 1, "log_every_steps": 2} | sections.pop("machine", {})
    data = {"name": "synthetic", "image_size_px": 16, "synthetic_images": 64, "cache_dir": folder / "cache"}
    return tiny_recipe(machine=machine, data=data | sections.pop("data", {}), **sections)


def learn(recipe: Recipe, resume: Path | None = None) -> Run:
    return pretrain(recipe, "name: tiny\n", resume=resume, console=Console(file=StringIO()))


def only_run(folder: Path) -> Run:
    (path,) = (folder / "runs").iterdir()
    return Run(path)


def test_killed_after_the_last_checkpoint_the_result_is_that_of_an_unbroken_run(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    run = learn(recipe)
    result, encoder = run.result, run.encoder_file.read_bytes()
    assert result is not None
    assert result["rankme"] > 1
    (run.path / "result.json").unlink()  # As the kill leaves it.
    run.encoder_file.unlink()
    again = learn(recipe, resume=run.path)
    assert again.result == result
    assert again.encoder_file.read_bytes() == encoder


def test_killed_after_the_checkpoint_of_a_collapse_the_run_ends_as_collapsed(tmp_path: Path) -> None:
    recipe = recipe_in(
        tmp_path,
        method={"target": "copy", "predictor": "none"},
        optim={"base_lr": 2.0},
        schedule={"epochs": 30, "warmup_epochs": 1},
        evaluation={"every_epochs": 2},
    )
    with pytest.raises(TrainingFault, match="collapsed by step"):
        learn(recipe)
    run = only_run(tmp_path)
    result = json.loads((run.path / "result.json").read_text())
    assert result["step"] < 30 * 4
    (run.path / "result.json").unlink()
    with pytest.raises(TrainingFault, match=f"collapsed by step {result['step']}: all images fall onto one point"):
        learn(recipe, resume=run.path)
    assert run.result == result
    assert not run.encoder_file.exists()


# One step an epoch and one epoch: the loss before the only step is finite, what the step leaves is not.
@pytest.mark.parametrize(
    ("optim", "said"),
    [
        ({"base_lr": 1e30, "weight_decay": 1e30}, "the weights are not finite by step 1; lower optim.base_lr"),
        ({"base_lr": 1e36}, "the encoder's features are not finite by step 1; lower optim.base_lr"),
    ],
)
def test_a_step_that_leaves_no_finite_encoder_is_never_saved(
    tmp_path: Path, optim: dict[str, float], said: str
) -> None:
    recipe = recipe_in(tmp_path, optim=optim | {"batch_size": 64}, schedule={"epochs": 1, "warmup_epochs": 0})
    with pytest.raises(TrainingFault, match=said):
        learn(recipe)
    run = only_run(tmp_path)
    state = torch.load(run.checkpoints / "last.pt", weights_only=True)
    assert state["step"] == 0
    assert [path.name for path in run.checkpoints.glob("step-*")] == ["step-00000000.pt"]
    assert run.result is None
    assert not run.encoder_file.exists()


def test_a_moment_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, optim={"name": "adamw", "momentum": 0.9})
    learner = Learner(recipe, torch.device("cpu"), steps=8, steps_per_epoch=4)
    learner.step(0, *torch.randn(2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert learner.is_finite()
    next(iter(learner.optimizer.state.values()))["exp_avg_sq"][0] = torch.inf
    assert not learner.is_finite()
