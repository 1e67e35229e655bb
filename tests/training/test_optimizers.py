"""LARS against hand-computed steps, and which parameters are decayed."""

import pytest
import torch
from torch import nn

from byolt.recipe.optim import Optim
from byolt.training.optimizers import Lars, build_optimizer


def test_lars_step_by_hand() -> None:
    # w = (3, 4), g = (1, 0), decay 0.1: u = (1.3, 0.4), |w| = 5, |u| = sqrt(1.85).
    # Trust 0.001 * 5 / sqrt(1.85); w <- w - 2 * that * u. Step 2 with the same gradient adds 0.9 of the momentum.
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = Lars([weight], lr=2.0, momentum=0.9, weight_decay=0.1, trust=0.001)
    weight.grad = torch.tensor([1.0, 0.0], dtype=torch.float64)
    u = torch.tensor([1.3, 0.4], dtype=torch.float64)
    m = u * 0.001 * 5 / 1.85**0.5
    expected = torch.tensor([3.0, 4.0], dtype=torch.float64) - 2.0 * m
    optimizer.step()
    torch.testing.assert_close(weight.data, expected)

    u = torch.tensor([1.0, 0.0], dtype=torch.float64) + 0.1 * expected
    m = 0.9 * m + u * 0.001 * expected.norm() / u.norm()
    optimizer.step()
    torch.testing.assert_close(weight.data, expected - 2.0 * m)


def test_lars_without_adaptation_is_plain_momentum() -> None:
    # w = 1, g = 0.5 twice, lr 0.1, momentum 0.9: steps 0.05 and 0.1 * (0.45 + 0.5) = 0.095.
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = Lars([{"params": [weight], "adapt": False}], lr=0.1)
    for expected in (0.95, 0.855):
        weight.grad = torch.tensor([0.5])
        optimizer.step()
        assert weight.item() == pytest.approx(expected)


def test_lars_leaves_a_zero_weight_its_plain_gradient() -> None:
    # |w| = 0: the ratio is 1, or the weight could never leave 0.
    weight = nn.Parameter(torch.zeros(2))
    optimizer = Lars([weight], lr=0.1)
    weight.grad = torch.tensor([1.0, 2.0])
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.tensor([-0.1, -0.2]))


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_biases_and_norms_are_not_decayed(name: str) -> None:
    """With a gradient of 0, only decay moves a parameter."""
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    nn.init.constant_(net[0].bias, 0.7)
    optimizer = build_optimizer(net, Optim(name=name, weight_decay=0.1))  # type: ignore[arg-type]
    before = {key: value.clone() for key, value in net.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    moved = {key for key, value in net.named_parameters() if not torch.equal(value, before[key])}
    assert moved == {"0.weight"}


def test_lars_gives_biases_no_trust_ratio() -> None:
    net = nn.Linear(2, 2)
    optimizer = build_optimizer(net, Optim(name="lars", weight_decay=0.0))
    bias = net.bias.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    net.weight.grad, net.bias.grad = torch.ones(2, 2), torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(net.bias.data, bias - 0.5)
