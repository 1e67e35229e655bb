"""`schedule.heads_first_epochs`: the encoder waits until the heads have learned from its initial weights."""

from typing import Any

import pytest
import torch
from tests.conftest import tiny_recipe
from tests.training.test_frozen_norms import METHODS, batch

from byolt.training.step import Learner
from byolt_export.errors import ByoltError


def learner(method: str = "byol", epochs: float = 0.5, **optim: Any) -> Learner:
    recipe = tiny_recipe(
        method={"name": method} | METHODS[method],
        optim={"momentum": 0.0, "weight_decay": 0.0} | optim,
        schedule={"epochs": 2, "warmup_epochs": 0.0, "heads_first_epochs": epochs},
    )
    classes = 3 if method == "mean_teacher" else 0
    return Learner(recipe, torch.device("cpu"), steps=8, steps_per_epoch=4, classes=classes)


@pytest.mark.parametrize("optim", [{}, {"name": "adamw", "weight_decay": 0.1}, {"name": "lars", "weight_decay": 0.1}])
@pytest.mark.parametrize("method", METHODS)
def test_the_encoder_waits_and_then_learns(method: str, optim: dict[str, Any]) -> None:
    learned = learner(method, **optim)
    first = {key: value.clone() for key, value in learned.method.named_parameters()}
    for step in range(4):
        learned.step(step, *batch(method, seed=step))
        moved = {
            key.partition(".")[0]
            for key, value in learned.method.named_parameters()
            if value.requires_grad and not torch.equal(value, first[key])
        }
        assert ("encoder" in moved) == (step >= 2), step  # Half an epoch of four steps.
        assert "projector" in moved


def test_its_first_step_is_that_of_the_whole_rate() -> None:
    """w - rate * g, at the rate that the schedule has for this step: base 0.4 * 16 / 256 and the cosine of 8 steps."""
    learned = learner()
    for step in range(2):
        learned.step(step, *batch(seed=step))
    before = {key: value.detach().clone() for key, value in learned.method.encoder.named_parameters()}
    learned.step(2, *batch(seed=2))
    rate = learned.learning_rate(2)
    assert rate > 0
    for key, value in learned.method.encoder.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(value, before[key] - rate * value.grad, rtol=1e-6, atol=1e-8)


def test_without_it_the_groups_are_as_ever() -> None:
    assert [len(group["params"]) for group in learner(epochs=0.0).optimizer.param_groups] == [
        len([w for w in learner().method.parameters() if w.requires_grad and (w.ndim > 1) == many])
        for many in (True, False)
    ]


def test_it_ends_before_the_run_does() -> None:
    with pytest.raises(ByoltError, match="heads_first_epochs 2 must be below epochs 2"):
        tiny_recipe(schedule={"epochs": 2, "warmup_epochs": 0.0, "heads_first_epochs": 2.0})
