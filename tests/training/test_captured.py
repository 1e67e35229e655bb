"""A GPU's steps against the CPU's, captured ones against ordinary ones; the same runs on the CPU, without a graph.

All bounds are relative to how far a step moves the weights: what does not move, or moves another way, is no rounding.
Two runs are put on the same weights after each step, since networks so small make a rounding error of one step a tenth
of the way of eight.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tiny_recipe
from torch import Tensor

from byolt.training.cuda_graph import WARMUP_STEPS, Stepper
from byolt.training.loader import batch_stream, make_views
from byolt.training.prepare import Parts, prepare
from byolt.training.step import Learner

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
METHODS: dict[str, dict[str, Any]] = {
    "byol": {"tau_base": 0.9},
    "simclr": {"name": "simclr"},
    "simsiam": {"name": "simsiam"},
    "moco_v2": {"name": "moco_v2", "queue_size": 64, "norm_groups": 2},
    "moco_v3": {"name": "moco_v3"},
}
RATES = {"lars": 20.0, "sgd": 0.4, "adamw": 0.01}
ARGS = {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16], "zero_init_last": False}  # Each kernel has a gradient.
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _exact_and_the_same_each_time() -> Iterator[None]:
    """No TF32, and no convolution by what was the fastest or by sums in any order; put back as it was."""
    exact, cudnn = (torch.backends.cuda.matmul, torch.backends.cudnn.conv), torch.backends.cudnn
    before, flags = [backend.fp32_precision for backend in exact], (cudnn.benchmark, cudnn.deterministic)
    for backend in exact:
        backend.fp32_precision = "ieee"
    cudnn.deterministic = True
    yield
    for backend, precision in zip(exact, before, strict=True):
        backend.fp32_precision = precision
    cudnn.benchmark, cudnn.deterministic = flags


def parts_on(device: str, folder: Path, optimizer: str = "sgd", *, epochs: int = 2, **sections: Any) -> Parts:
    """Of epochs of four steps; the rate rises through the first of them and falls after it."""
    machine = {"device": device, "threads": 1} | sections.pop("machine", {})
    sections["optim"] = {"name": optimizer, "base_lr": RATES[optimizer], "momentum": 0.9, "weight_decay": 1e-3}
    sections["schedule"] = {"epochs": epochs, "warmup_epochs": 1}
    parts = prepare(tiny_recipe(data={"cache_dir": folder}, machine=machine, model={"args": ARGS}, **sections))
    torch.backends.cudnn.benchmark = False  # Which preparing has set.
    return parts


def stepper_of(parts: Parts, *, captured: bool) -> Stepper:
    """Of networks of its own; rates lie on the device either way, where fp32 rounds them."""
    length: dict[str, int] = {"steps": parts.sampler.steps, "steps_per_epoch": parts.sampler.steps_per_epoch}
    learner = Learner(parts.recipe, parts.learner.device, device_rates=True, **length)
    return Stepper(learner, parts.recipe, captured=captured)


def batches_of(parts: Parts) -> Iterator[Any]:
    return batch_stream(parts.sampler, parts.store, parts.recipe, parts.learner.device)


def kernels(learner: Learner) -> Tensor:
    """All weights of layers, learned and of the target; no biases, whose gradient before a BatchNorm is rounding."""
    return torch.cat([w.detach().double().cpu().flatten() for w in learner.method.parameters() if w.ndim > 1])


def take_over(into: Learner, of: Learner) -> None:
    """Weights, statistics, queue and moments, in place: a graph knows its tensors by their addresses."""

    def all_of(learner: Learner) -> list[Tensor]:
        moments = [value for state in learner.optimizer.state.values() for value in state.values()]
        return [value for value in (*learner.method.state_dict().values(), *moments) if isinstance(value, Tensor)]

    for own, theirs in zip(all_of(into), all_of(of), strict=True):
        own.copy_(theirs)


def assert_same_step(found: Stepper, expected: Stepper, step: int, batch: Any) -> None:
    """From the same weights to the same loss and the same weights."""
    start = kernels(expected.learner)
    loss, own_loss = float(expected.step(step, batch).loss), float(found.step(step, batch).loss)
    assert own_loss == pytest.approx(loss, rel=1e-3), step
    end = kernels(expected.learner)
    apart, moved = (kernels(found.learner) - end).norm(), (end - start).norm()
    assert moved > 1e-5 * start.norm() or step == 0, step  # The first rate is 0.
    assert apart <= 0.05 * moved + 1e-6 * start.norm(), step
    take_over(found.learner, expected.learner)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_eight_captured_steps_are_eight_ordinary_ones(method: str, device: str, tmp_path: Path) -> None:
    parts = parts_on(device, tmp_path, method=METHODS[method])
    ordinary, captured = (stepper_of(parts, captured=how) for how in (False, True))
    for step, batch in enumerate(batches_of(parts)):
        assert_same_step(captured, ordinary, step, batch)
    assert step + 1 == 8 > WARMUP_STEPS + 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_a_run_goes_on_from_between_two_replays(optimizer: str, device: str, tmp_path: Path) -> None:
    """From a checkpoint of a captured run, which goes on beside it, to steps that are recorded anew."""
    parts = parts_on(device, tmp_path, optimizer, epochs=3)
    straight, resumed = (stepper_of(parts, captured=True) for _ in range(2))
    cut, kept = WARMUP_STEPS + 2, io.BytesIO()
    for step, batch in enumerate(batches_of(parts)):
        if step < cut:
            straight.step(step, batch)
            continue
        if step == cut:
            torch.save(straight.learner.state(), kept)
            kept.seek(0)
            resumed.learner.restore(torch.load(kept, map_location="cpu", weights_only=True))
        assert_same_step(resumed, straight, step, batch)
    assert step + 1 == 12 > cut + WARMUP_STEPS + 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_a_step_of_a_gpu_is_the_cpus(optimizer: str, device: str, tmp_path: Path) -> None:
    """In fp32, of the same views; on the CPU in the other layout."""
    plain = {"precision": "fp32", "cuda_graph": False}
    parts = parts_on("cpu", tmp_path, optimizer, machine=plain)
    views = make_views(next(batches_of(parts)), parts.recipe)
    other_layout = {"channels_last": device != "cpu"}
    there = parts_on(device, tmp_path, optimizer, machine=plain | other_layout).learner
    start = kernels(parts.learner)
    expected = parts.learner.step(3, *views)
    found = there.step(3, *(view.to(there.device) for view in views))
    assert float(found.loss) == pytest.approx(float(expected.loss), rel=1e-4)
    gradients = [
        torch.cat([w.grad.cpu().flatten() for w in one.method.parameters() if w.grad is not None and w.ndim > 1])
        for one in (there, parts.learner)
    ]
    assert (gradients[0] - gradients[1]).norm() < 0.01 * gradients[1].norm()
    end = kernels(parts.learner)
    assert (end - start).norm() > 1e-4 * start.norm()
    # AdamW's first step is the gradient's sign: where that is next to nothing it may turn.
    share = 0.1 if optimizer == "adamw" else 0.01
    assert (kernels(there) - end).norm() < share * (end - start).norm()
