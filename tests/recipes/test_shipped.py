"""Every shipped recipe is read, says what it must, and takes two steps on images of its kind."""

from pathlib import Path

import pytest
import torch
from tests.data.tiny_sets import write_cifar, write_stl10
from tests.test_command_line import draw_folder

from byolt.recipe import load_recipe
from byolt.training.loop import prepare
from byolt.training.stream import view_stream

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
# Two steps of the whole model are what is tested; a small batch makes them affordable.
SMALL = ["optim.batch_size=4", "machine.workers=0", "machine.threads=1"]


def test_there_are_the_five() -> None:
    assert {path.stem for path in RECIPES} >= {"quickstart", "stl10", "cifar10", "cifar10-cpu", "folder"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_opens_with_what_a_reader_needs(path: Path) -> None:
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# Command:   ") for line in head)
    expected = next(line for line in head if line.startswith("# Expected:  "))
    assert "docs/results.md" in expected or "not yet measured" in expected
    if "docs/results.md" in expected:
        assert f"| {path.stem}" in (ROOT / "docs" / "results.md").read_text()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_departure_from_the_paper_is_marked(path: Path) -> None:
    """Where a recipe sets another value than the paper's, the line says so."""
    recipe, text = load_recipe(path), path.read_text()
    papers = {
        "backbone": recipe.model.backbone == "resnet50",
        "  name:": recipe.optim.name == "lars",
        "tau_base": recipe.method.tau_base in (0.996, 0.99),  # Section 3.3 and, for 300 epochs, section 5.
        "projector": recipe.model.projector.hidden_dim == 4096,
    }
    for key, as_in_the_paper in papers.items():
        lines = [line for line in text.splitlines() if key in line and not line.startswith("#")]
        if not as_in_the_paper:
            assert any("(differs)" in line or "differs" in line for line in lines), key


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_takes_two_steps(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [*SMALL, f"data.cache_dir={tmp_path / 'cache'}"]
    name = load_recipe(path).data.name
    if name == "synthetic":
        settings += ["data.synthetic_images=64"]
    elif name == "stl10":
        write_stl10(tmp_path / "set", monkeypatch)
        settings += [f"data.root={tmp_path / 'set'}"]
    elif name == "cifar10":
        from torchvision.datasets import CIFAR10

        write_cifar(CIFAR10, tmp_path / "set", monkeypatch)
        settings += [f"data.root={tmp_path / 'set'}"]
    else:
        draw_folder(tmp_path / "train", classes=2, images=16)
        draw_folder(tmp_path / "test", classes=2, images=8)
        settings += [f"data.root={tmp_path / 'train'}"]
        settings += [f"data.test_root={tmp_path / 'test'}"] if load_recipe(path).data.test_root else []
    recipe = load_recipe(path, settings)
    parts = prepare(recipe)
    stream = view_stream(parts.plan, parts.store, recipe, torch.device("cpu"))
    for step in range(2):
        _, view_1, view_2 = next(stream)
        side = recipe.view_size_px_of(0)
        assert view_1.shape == view_2.shape == (4, 3, side, side)
        assert torch.isfinite(parts.learner.step(step, view_1, view_2).loss)
