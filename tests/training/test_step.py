"""One step of the learner: rate, order of optimizer and target, accumulation; against plain autograd."""

import copy
import math
from typing import Any

import pytest
import torch
from tests.conftest import tiny_recipe
from torch import Tensor

from byolt.networks.encoders import build_head
from byolt.recipe.model import Head
from byolt.training.step import Learner

STEPS = 8


def learner(**sections: Any) -> Learner:
    recipe = tiny_recipe(**sections)
    return Learner(recipe, torch.device("cpu"), steps=STEPS, steps_per_epoch=4)


def views(seed: int = 0) -> tuple[Tensor, Tensor]:
    view_1, view_2 = torch.randn(2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return view_1, view_2


def weights(learned: Learner) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in learned.method.named_parameters()}


def gradients(learned: Learner, view_1: Tensor, view_2: Tensor) -> dict[str, Tensor]:
    """Plain autograd on a copy."""
    method = copy.deepcopy(learned.method)
    method(view_1, view_2).loss.backward()
    return {name: value.grad for name, value in method.named_parameters() if value.grad is not None}


def test_step_goes_downhill_at_the_scheduled_rate_scaled_by_the_batch() -> None:
    # Peak 0.4 * 16 / 256 = 0.025; step 3 of 8: 0.025 (cos(3 pi / 8) + 1) / 2.
    learned, (view_1, view_2) = learner(), views()
    before, gradient = weights(learned), gradients(learned, view_1, view_2)
    learned.step(3, view_1, view_2)
    rate = 0.025 * (math.cos(3 * math.pi / 8) + 1) / 2
    for name, value in gradient.items():
        torch.testing.assert_close(weights(learned)[name], before[name] - rate * value, rtol=1e-4, atol=1e-6)


def test_target_follows_the_new_weights_with_the_tau_of_the_step() -> None:
    # Step 2 of 8 at tau_base 0.5: tau = 1 - 0.5 (cos(pi / 4) + 1) / 2.
    learned = learner(method={"tau_base": 0.5}, optim={"base_lr": 40.0})
    before = weights(learned)
    learned.step(2, *views())
    after, tau = weights(learned), 1 - 0.5 * (math.sqrt(0.5) + 1) / 2
    online = [name for name in after if name.startswith(("encoder.", "projector."))]
    target = [name for name in after if name.startswith("target.")]
    for fast, slow in zip(online, target, strict=True):
        torch.testing.assert_close(after[slow], tau * before[slow] + (1 - tau) * after[fast])


def test_constant_tau_stays() -> None:
    assert learner(method={"tau_base": 0.9, "tau_schedule": "constant"}).tau(5) == 0.9


def test_accumulation_averages_the_gradients_of_equal_parts() -> None:
    learned, (view_1, view_2) = learner(optim={"accumulate": 2}), views()
    before = weights(learned)
    first, second = gradients(learned, view_1[:8], view_2[:8]), gradients(learned, view_1[8:], view_2[8:])
    learned.step(0, view_1, view_2)
    for name, value in first.items():
        expected = before[name] - 0.025 * (value + second[name]) / 2
        torch.testing.assert_close(weights(learned)[name], expected, rtol=1e-4, atol=1e-6)


def test_a_step_forgets_the_gradient_of_the_one_before() -> None:
    learned = learner()
    learned.step(0, *views(seed=1))
    view_1, view_2 = views(seed=2)
    before, gradient = weights(learned), gradients(learned, view_1, view_2)
    learned.step(0, view_1, view_2)
    for name, value in gradient.items():
        torch.testing.assert_close(weights(learned)[name], before[name] - 0.025 * value, rtol=1e-4, atol=1e-6)


def test_warmup_is_counted_in_steps() -> None:
    # 1.5 epochs of 4 steps: at step 3 the rate is half the peak.
    assert learner(schedule={"epochs": 2, "warmup_epochs": 1.5}).learning_rate(3) == pytest.approx(0.0125)


def test_four_steps_are_two_and_a_restore_and_two() -> None:
    straight = learner(optim={"momentum": 0.9})
    for step in range(4):
        straight.step(step, *views(seed=step))
    first = learner(optim={"momentum": 0.9})
    for step in range(2):
        first.step(step, *views(seed=step))
    second = learner(optim={"momentum": 0.9}, seed=5)
    second.restore(copy.deepcopy(first.state()))
    for step in range(2, 4):
        second.step(step, *views(seed=step))
    for name, value in straight.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[name]), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_moments_go_on_in_the_other_layout_of_the_weights(optimizer: str, channels_last: bool) -> None:
    """Number by number: what one gradient makes of a checkpoint is the same whether the layout changed or not."""
    optim = {"name": optimizer, "momentum": 0.9, "weight_decay": 1e-3, "base_lr": 0.1}
    first, same, other = (
        learner(optim=optim, machine={"channels_last": how})
        for how in (channels_last, channels_last, not channels_last)
    )
    for step in range(2):
        first.step(step, *views(seed=step))
    for resumed in (same, other):
        resumed.restore(copy.deepcopy(first.state()))
        resumed.prepare(2)
        draws = torch.Generator().manual_seed(7)
        for weight in resumed.method.parameters():
            weight.grad = torch.empty_like(weight).copy_(torch.randn(weight.shape, generator=draws))
        resumed.optimizer.step()
    kernels = [w for w in other.method.parameters() if w.ndim == 4]
    assert [w.stride() for w in kernels] != [w.stride() for w in same.method.parameters() if w.ndim == 4]
    for (name, value), expected in zip(weights(other).items(), weights(same).values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_head_is_the_papers() -> None:
    # Section 3.3: linear, BatchNorm, ReLU, linear; no BatchNorm on the output.
    kinds = [type(layer).__name__ for layer in build_head(32, Head(hidden_dim=48, out_dim=12), seed=0)]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_seed_decides_the_weights() -> None:
    same, again, other = (learner(seed=seed).method.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not torch.equal(same["encoder.conv1.weight"], other["encoder.conv1.weight"])
