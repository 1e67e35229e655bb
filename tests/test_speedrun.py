"""The GPU's script for learning: its metrics by hand, and all of it from end to end, small and on this machine."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmarks.gpu.readings import WAITS, flops_per_image, lightly, parts, peak, waits, waits_among
from safetensors.torch import load, save_file
from torch import nn

from byolt.data.sampler import Batch
from byolt.methods.base import Outcome
from byolt.recipe.load import load_recipe
from byolt.recipe.schema import Recipe
from byolt.training.cuda_graph import Stepper
from byolt.training.prepare import prepare
from tests.conftest import tiny_recipe
from tests.test_command_line import draw_folder

ROOT = Path(__file__).resolve().parents[1]


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
    recipe = load_recipe(ROOT / "recipes/cifar10-gpu.yaml", ["machine.device=cpu", images])
    # Multiplications: the stem, and four stages of two blocks, each half the side and twice the width of the last one.
    stem, block, shortcut = 32**2 * 64 * 27, 32**2 * 2 * 64**2 * 9, 16**2 * 64 * 128
    encoder = stem + 2 * block + 3 * (block // 4 * 3 + block + shortcut)
    heads = 512 * 4096 + 4096 * 256, 256 * 4096 + 4096 * 256  # Projector, predictor.
    of_view = 3 * (encoder + sum(heads)) - stem + encoder + heads[0]
    assert flops_per_image(recipe) == 2 * 2 * of_view == 8_955_101_184


def test_waits_of_a_step_are_those_of_the_steady_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step waits once and each window twice; the first steps of a process wait a hundred times for a search."""
    waited: list[str] = []
    step = Stepper.step

    def waiting(self: Stepper, number: int, batch: Batch) -> Outcome:
        waited.extend(["cudaStreamSynchronize"] * (1 if len(waited) > 300 else 100))
        return step(self, number, batch)

    class Window:
        def __init__(self, **_: object) -> None:
            self.start = len(waited)

        def __enter__(self) -> "Window":
            return self

        def __exit__(self, *_: object) -> None:
            waited.extend(["cudaDeviceSynchronize"] * 2)
            self.names = waited[self.start :]

        def events(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name=name) for name in self.names]

    monkeypatch.setattr(Stepper, "step", waiting)
    monkeypatch.setattr("benchmarks.gpu.readings.profile", Window)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    found = waits(small(tmp_path), 5)  # 23 steps, of a run of eight.
    assert found["waits_per_step"] == dict.fromkeys(WAITS, 0.0) | {"cudaStreamSynchronize": 1.0}


def test_the_hosts_waits_are_told_from_other_events() -> None:
    names = ["cudaStreamSynchronize", "cudaLaunchKernel", "Memcpy DtoH (Device -> Pinned)", "cudaStreamSynchronize"]
    names += ["Memcpy HtoD (Pinned -> Device)", "cudaStreamWaitEvent", "cudaGraphLaunch", "cudaDeviceSynchronize"]
    assert waits_among(names) == {"cudaStreamSynchronize": 2, "Memcpy DtoH": 1, "cudaDeviceSynchronize": 1}


def test_the_peak_counts_a_multiplication_and_an_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("benchmarks.gpu.readings.time.perf_counter", lambda: 0.5 * next(clock))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = peak(8)
    assert (found["dtype"], found["tflops"]) == ("float32", 2 * 8 * 8 * 8 / 0.5 / 1e12)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_what_only_a_gpu_has_is_absent_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        waits(small(tmp_path), 2)
    assert left.value.code == 5
    assert "no GPU here" in capsys.readouterr().err


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


@pytest.mark.full
def test_all_of_it_runs_and_a_failing_step_stops_none_after_it(tmp_path: Path) -> None:
    draw_folder(tmp_path / "set" / "train", classes=2, images=32)
    draw_folder(tmp_path / "set" / "test", classes=2, images=8)
    sizes = ["--tiny", "--steps", 2, "--lightly-seconds", 1, "--workers", 0, "--part-mb", 0.02]
    # No matrix has that side: its reading fails, and nothing that follows needs it.
    sizes += ["--matrix", -1, "--minutes", 120]
    command = [sys.executable, ROOT / "benchmarks/gpu/cifar10_speedrun.py", "--data", tmp_path / "set", *sizes]
    out = tmp_path / "out"
    done = subprocess.run([*map(str, command), "--out", str(out)], capture_output=True, text=True, check=False)
    summary = (out / "summary.md").read_text()
    assert done.returncode == 1, done.stderr
    rows = [line.split(" | ") for line in summary.partition("\n\n")[0].splitlines()[2:]]
    ended = {name.removeprefix("| "): code for name, code, *_ in rows}
    assert ended.pop("peak") == "1"
    assert ended.pop("lightly") in ("0", "5")
    assert ended.pop("waits") == ("0" if torch.cuda.is_available() else "5")
    assert ended == dict.fromkeys(["doctor", "speed", "profile", "pretrain", "parts", "evaluate"], "0")
    assert "utilisation" not in summary
    assert torch.cuda.is_available() or "Synchronize" not in summary
    speed = json.loads((out / "speed.json").read_text())
    assert speed["images_per_s"] > 0
    knn = [
        json.loads(line)["knn"] for line in (out / "run" / "metrics.jsonl").read_text().splitlines() if "knn" in line
    ]
    assert len(knn) == 2
    assert (out / "run" / "evaluation" / "encoder.json").exists()
    assert "| 2 | " in summary
