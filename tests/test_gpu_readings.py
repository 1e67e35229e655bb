"""What the call on a GPU reads of a card, a step and a run: its figures by hand."""

import hashlib
from pathlib import Path

import pytest
import torch
from benchmarks.gpu.readings import flops_per_image, lightly, parts, peak
from safetensors.torch import load, save_file
from torch import nn

from byolt.recipe.load import load_recipe
from byolt.recipe.schema import Recipe
from byolt.training.prepare import prepare
from tests.conftest import tiny_recipe


def small(folder: Path) -> Recipe:
    return tiny_recipe(data={"cache_dir": folder}, machine={"device": "cpu", "threads": 1})


def test_a_steps_operations_are_those_of_its_layers_counted_by_hand(tmp_path: Path) -> None:
    recipe = small(tmp_path)
    method = prepare(recipe).learner.method
    layers: dict[str, float] = {}

    def count(name: str, layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        # Each number of the output takes one multiplication and one addition for each weight that reaches it.
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layers[name] = 2 * output[0].numel() * layer.weight[0].numel()

    for name, layer in method.named_modules():
        layer.register_forward_hook(lambda *found, name=name: count(name, *found))
    method(*torch.randn(2, 4, 3, 16, 16))
    target = sum(flops for name, flops in layers.items() if name.startswith("target."))
    online = sum(flops for name, flops in layers.items() if not name.startswith("target."))
    stem = layers["encoder.conv1"]
    assert stem == 2 * (16 * 16 * 64) * (3 * 3 * 3)
    assert target == online - sum(flops for name, flops in layers.items() if name.startswith("predictor."))
    # Two views: forward once; backward twice that, for weights and for inputs, but none for the images themselves.
    assert flops_per_image(recipe) == 2 * (online + 2 * online - stem + target)


def test_an_image_of_cifar_10_takes_nine_gigaflop(tmp_path: Path) -> None:
    """ResNet-18 at 32 px by hand: 8.96 GFLOP; with byolt's own gradients of small convolutions it was 8.80."""
    images = f"data={{name: synthetic, image_size_px: 32, synthetic_images: 1024, cache_dir: {tmp_path}}}"
    recipe = load_recipe(Path(__file__).parents[1] / "recipes/cifar10-gpu.yaml", ["machine.device=cpu", images])
    # Multiplications: the stem, and four stages of two blocks, each half the side and twice the width of the last one.
    stem, block, shortcut = 32**2 * 64 * 27, 32**2 * 2 * 64**2 * 9, 16**2 * 64 * 128
    encoder = stem + 2 * block + 3 * (block // 4 * 3 + block + shortcut)
    heads = 512 * 4096 + 4096 * 256, 256 * 4096 + 4096 * 256  # Projector, predictor.
    of_view = 3 * (encoder + sum(heads)) - stem + encoder + heads[0]
    assert flops_per_image(recipe) == 2 * 2 * of_view == 8_955_101_184


def test_the_peak_counts_a_multiplication_and_an_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("benchmarks.gpu.readings.time.perf_counter", lambda: 0.5 * next(clock))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = peak(8)
    assert (found["dtype"], found["tflops"]) == ("float32", 2 * 8 * 8 * 8 / 0.5 / 1e12)


def test_lightlys_figure_is_absent_where_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.readings.importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit) as left:
        lightly(small(tmp_path), 1.0, 0)
    assert left.value.code == 5


def test_the_parts_of_an_encoder_make_it_again(tmp_path: Path) -> None:
    weights = {"conv.weight": torch.randn(8, 3, 3, 3), "norm.running_var": torch.tensor([1e-9, 1e9])}
    save_file(weights, tmp_path / "encoder.safetensors")
    found = parts(tmp_path, tmp_path, 200)
    pieces = [(tmp_path / name).read_bytes() for name in found["parts"]]
    assert len(pieces) > 2
    assert [len(piece) for piece in pieces[:-1]] == [200] * (len(pieces) - 1)
    whole = b"".join(pieces)
    assert hashlib.sha256(whole).hexdigest() == found["sha256"]
    again = load(whole)
    assert torch.equal(again["conv.weight"], weights["conv.weight"].half())
    assert torch.equal(again["norm.running_var"], weights["norm.running_var"])
