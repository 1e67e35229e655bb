"""The loop in one process: what a run leaves, and how it ends when it was killed or goes wrong."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.conftest import tiny_recipe

from byolt.data.sampler import BatchSampler
from byolt.recipe.schema import Recipe
from byolt.run import Run, create_run, open_run, run_of
from byolt.training.checkpoint import load_checkpoint
from byolt.training.loop import pretrain
from byolt.training.step import Learner
from byolt_export.errors import ByoltError, InputError, TrainingFault


def recipe_in(folder: Path, **sections: Any) -> Recipe:
    machine = {"runs_dir": folder / "runs", "threads": 1, "log_every_steps": 2} | sections.pop("machine", {})
    data = {"name": "synthetic", "image_size_px": 16, "synthetic_images": 64, "cache_dir": folder / "cache"}
    return tiny_recipe(machine=machine, data=data | sections.pop("data", {}), **sections)


def learn(recipe: Recipe, resume: Path | None = None) -> Run:
    return pretrain(recipe, resume=resume)


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


def test_what_fails_before_the_first_checkpoint_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_in(tmp_path)

    def full_disk(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for broken in ("PIL.Image.Image.save", "torch.save", "os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, full_disk)
            with pytest.raises(ByoltError, match="No space left") as fault:
                learn(recipe)
        assert fault.value.exit_code == 1
        assert "resume" not in str(fault.value)
        assert list((tmp_path / "runs").iterdir()) == []
    assert learn(recipe).result is not None


def test_a_run_killed_while_it_was_made_is_neither_in_the_way_nor_the_latest(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    run = learn(recipe)
    left = run.path.with_name(f".{run.path.name}.1.part")
    run.path.rename(left)
    (left / "result.json").unlink()
    again = learn(recipe)
    os.utime(left / "metrics.jsonl", (2e9, 2e9))
    assert again.result is not None
    assert open_run(None, tmp_path / "runs").path == again.path


def test_of_two_that_start_at_once_one_makes_the_run(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    final = run_of(recipe, "images")

    def late() -> None:
        with create_run(recipe, "images", "text"):
            (final.path / "checkpoints").mkdir(parents=True)  # The other is quicker.

    with pytest.raises(
        InputError, match="was started before and has not ended; go on with byolt pretrain .* --resume "
    ):
        late()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [final.path.name]


def test_a_run_begins_with_the_weights_of_a_file(tmp_path: Path) -> None:
    first = learn(recipe_in(tmp_path))
    start = recipe_in(tmp_path, model={"init": "file", "init_file": first.encoder_file})
    second = learn(start)
    assert second.path != first.path
    before = torch.load(second.checkpoints / "step-00000000.pt", weights_only=True)["method"]
    for name, value in load_file(first.encoder_file).items():
        assert torch.equal(before[f"encoder.{name}"], value)
        assert torch.equal(before[f"target.0.{name}"], value), "the target starts as a copy"


def test_a_file_of_weights_counts_by_its_content_and_must_fit(tmp_path: Path) -> None:
    first = learn(recipe_in(tmp_path))
    weights = load_file(first.encoder_file)
    path = tmp_path / "start.safetensors"
    start = recipe_in(tmp_path, model={"init": "file", "init_file": path})
    save_file(weights, path)
    one = run_of(start, "images").path
    save_file({name: value + 1 for name, value in weights.items()}, path)
    assert run_of(start, "images").path != one
    save_file(weights | {"conv1.weight": torch.full_like(weights["conv1.weight"], torch.nan)}, path)
    with pytest.raises(InputError, match=r"start\.safetensors hold numbers that are not finite, in conv1"):
        learn(start)
    del weights["conv1.weight"]
    save_file(weights, path)
    with pytest.raises(InputError, match=r"start\.safetensors are of another backbone: .*conv1\.weight"):
        learn(start)
    path.write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"start\.safetensors cannot be read"):
        learn(start)
    assert [run.name for run in (tmp_path / "runs").iterdir()] == [first.path.name]


def images_in(folder: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [folder / "images" / f"{index:02d}.bmp" for index in range(64)]
    (folder / "images").mkdir()
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return paths


def test_a_vanished_image_put_back_the_run_goes_on_to_the_same_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = images_in(tmp_path)
    data = {"name": "folder", "root": tmp_path / "images", "cache_budget_gb": 0.0}
    straight = learn(recipe_in(tmp_path, data=data, machine={"runs_dir": tmp_path / "straight"}))
    recipe = recipe_in(tmp_path, data=data, machine={"checkpoint_every_s": 1e-9})
    lost = paths[int(list(BatchSampler(64, 16, 2, recipe.seed))[1].indices[0])]  # In the second batch.
    content = lost.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("byolt.views.grid.write_view_grid", lambda *_: lost.unlink())  # The set is listed by then.
        with pytest.raises(InputError, match=f"image {lost} is gone since the folder was listed; put it back"):
            learn(recipe)
    run = only_run(tmp_path)
    assert load_checkpoint(run.checkpoints)["step"] == 1
    lost.write_bytes(content)
    learn(recipe, resume=run.path)
    assert run.encoder_file.read_bytes() == straight.encoder_file.read_bytes()


def test_resume_on_an_edited_image_is_refused(tmp_path: Path) -> None:
    path = images_in(tmp_path)[5]
    recipe = recipe_in(tmp_path, data={"name": "folder", "root": tmp_path / "images"})
    run = learn(recipe)
    (run.path / "result.json").unlink()
    before = path.read_bytes()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path)  # As many bytes as before.
    assert path.stat().st_size == len(before)
    with pytest.raises(InputError, match="cannot go on with these: the images: other files, other content or another"):
        learn(recipe, resume=run.path)
    path.write_bytes(before)
    os.utime(path, ns=(0, 1))
    assert learn(recipe, resume=run.path).result is not None


def test_event_files_hold_the_figures_of_the_metrics(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = recipe_in(tmp_path, machine={"tensorboard": True, "checkpoint_every_s": 1e-9, "keep_checkpoints": 9})
    run = learn(recipe)
    (run.path / "result.json").unlink()  # Killed after step 7, resumed from the checkpoint of step 5.
    (run.checkpoints / "step-00000005.pt").replace(run.checkpoints / "last.pt")
    learn(recipe, resume=run.path)
    events = EventAccumulator(str(run.path))
    events.Reload()
    metrics = run.log_records()
    for name, times in (("loss", 5), ("lr", 4), ("rankme", 1)):
        told = [(record["step"], record[name]) for record in metrics if name in record]
        kept = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in kept] == [step for step, _ in told]
        np.testing.assert_allclose([value for _, value in kept], [value for _, value in told], rtol=1e-5)
        assert len(kept) == times
    assert "verdict" not in events.Tags()["scalars"]  # It is a word.
