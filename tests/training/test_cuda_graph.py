"""A captured step gives the weights of ordinary steps: its buffers and rates; what a graph would hold is run here."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import tiny_recipe
from torch._subclasses.fake_tensor import FakeTensorMode

from byolt.data.sampler import Batch
from byolt.recipe.schema import Recipe
from byolt.training.cuda_graph import CapturedStep, Stepper
from byolt.training.loader import batch_stream, resident_stream
from byolt.training.prepare import Parts, prepare
from byolt.training.step import Learner

METHODS: list[dict[str, Any]] = [
    {},
    {"name": "moco_v2", "queue_size": 64, "norm_groups": 2},
    {"name": "mean_teacher", "rampup_share": 1.0, "labelled_share": 0.5},
]
CPU = torch.device("cpu")


def of(tmp_path: Path, **sections: Any) -> Recipe:
    sections["data"] = {"cache_dir": tmp_path}
    return tiny_recipe(machine={"device": "cpu", "threads": 1}, **sections)


def assert_same_steps(parts: Parts) -> None:
    """Each captured step against the ordinary one from the same state: loss, and weights and statistics after it.

    From the same state, since one step of so small a network makes a hundredfold of a rounding error: two runs side by
    side part after a dozen steps on some processors, whatever is right.
    """
    recipe, sampler = parts.recipe, parts.sampler
    length: dict[str, int] = {"steps": sampler.steps, "steps_per_epoch": sampler.steps_per_epoch}
    plain, graph = (
        Learner(recipe, CPU, classes=len(parts.store.classes), device_rates=captured, **length)
        for captured in (False, True)
    )
    ordinary, captured = Stepper(plain, recipe, captured=False), Stepper(graph, recipe, captured=True)
    for step, batch in enumerate(batch_stream(sampler, parts.store, recipe, CPU)):
        graph.restore(copy.deepcopy(plain.state()))  # Moments are taken over as they are.
        expected, found = ordinary.step(step, batch), captured.step(step, batch)
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-6)
        state = plain.method.state_dict()
        for name, value in graph.method.state_dict().items():
            if recipe.optim.name == "adamw" and value.ndim < 2:
                continue  # A bias before a BatchNorm has a gradient of rounding alone, which AdamW takes for one.
            torch.testing.assert_close(
                value, state[name], rtol=1e-4, atol=1e-5, msg=lambda m, s=step, n=name: f"step {s}, {n}: {m}"
            )
    assert step == 7 + 8 * (recipe.schedule.epochs == 4)
    assert isinstance(graph.decay, torch.Tensor)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw"])
def test_captured_steps_are_ordinary_steps(method: dict[str, Any], optimizer: str, tmp_path: Path) -> None:
    optim = {"name": optimizer, "momentum": 0.9, "weight_decay": 1e-3, "base_lr": 0.1}
    assert_same_steps(prepare(of(tmp_path, method=method, optim=optim, schedule={"epochs": 2, "warmup_epochs": 1})))


def test_each_size_of_views_has_its_own_capture(tmp_path: Path) -> None:
    views = {"early_size_px": 8, "early_share": 0.5}
    assert_same_steps(prepare(of(tmp_path, views=views, schedule={"epochs": 4, "warmup_epochs": 0})))


def test_a_checkpoint_of_device_rates_goes_on_with_ordinary_ones_and_back(tmp_path: Path) -> None:
    parts = prepare(of(tmp_path, optim={"name": "adamw", "momentum": 0.9, "base_lr": 0.01}))
    weights = []
    for first_how, second_how in ((False, False), (True, False), (False, True)):
        stream = batch_stream(parts.sampler, parts.store, parts.recipe, CPU)
        first, second = (
            Learner(parts.recipe, CPU, steps=8, steps_per_epoch=4, device_rates=how) for how in (first_how, second_how)
        )
        stepper = Stepper(first, parts.recipe, captured=first_how)
        for step in range(5):
            stepper.step(step, next(stream))
        second.restore(first.state())
        stepper = Stepper(second, parts.recipe, captured=second_how)
        for step in range(5, 8):
            stepper.step(step, next(stream))
        weights.append(torch.cat([w.flatten() for w in second.method.parameters() if w.ndim > 1]))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(weights[2], weights[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS[::2])
def test_batches_out_of_a_copy_on_the_device_are_those_of_the_loader(method: dict[str, Any], tmp_path: Path) -> None:
    parts = prepare(of(tmp_path, method=method))
    loaded = list(batch_stream(parts.sampler, parts.store, parts.recipe, CPU))
    resident = list(resident_stream(parts.sampler, parts.store, CPU))
    for ours, theirs in zip(resident, loaded, strict=True):
        assert ours.epoch == theirs.epoch
        for own, expected in zip(ours[1:], theirs[1:], strict=True):
            assert (own is None) == (expected is None)
            assert own is None or torch.equal(torch.as_tensor(own), torch.as_tensor(expected))


def test_another_threads_allocations_do_not_end_a_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread pins the next batches meanwhile: in the default mode its first allocation would end capture and run."""
    told: list[dict[str, Any]] = []

    @contextmanager
    def recorded(_: object, **how: Any) -> Iterator[None]:
        told.append(how)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", SimpleNamespace)
    monkeypatch.setattr(torch.cuda, "graph", recorded)
    monkeypatch.setattr(CapturedStep, "_run", lambda _: None)
    parts = prepare(of(tmp_path))
    monkeypatch.setattr(parts.learner, "device", torch.device("cuda"))
    with FakeTensorMode():
        batch = Batch(0, np.arange(2), torch.arange(2, device="cuda"))
        CapturedStep(parts.learner, parts.recipe, batch, None)
    assert told == [{"stream": None, "capture_error_mode": "thread_local"}]
