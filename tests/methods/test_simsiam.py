"""SimSiam's loss by hand, and its stop-gradient against a float64 reference."""

import copy

import pytest
import torch
from tests.methods.small import parts, slope, unit, views
from torch import Tensor

from byolt.methods.simsiam import SimSiam, negative_cosine


def small() -> SimSiam:
    return SimSiam(*parts(predictor=True)).double()


def test_negative_cosine_by_hand() -> None:
    # Cosines 24/25, 1 and -1: minus their mean.
    p, z = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]), torch.tensor([[4.0, 3.0], [5.0, 0.0], [0.0, -1.0]])
    assert negative_cosine(p, z).item() == pytest.approx(-(24 / 25 + 1 - 1) / 3)


def test_loss_and_gradient_are_those_of_equation_4_with_targets_held() -> None:
    net, (view_1, view_2) = small(), views()
    outcome = net(view_1, view_2)
    outcome.loss.backward()
    other = copy.deepcopy(net)
    held_1, held_2 = other.project(view_1).detach(), other.project(view_2).detach()

    def loss() -> Tensor:
        p_1, p_2 = other.predictor(other.project(view_1)), other.predictor(other.project(view_2))
        one, two = (unit(p_1) * unit(held_2)).sum(1), (unit(p_2) * unit(held_1)).sum(1)
        return -(one.mean() + two.mean()) / 2

    assert outcome.loss.item() == pytest.approx(loss().item(), rel=1e-5)
    for module in ("projector", "predictor"):
        expected = slope(loss, getattr(other, module)[0].weight, (2, 1))
        assert getattr(net, module)[0].weight.grad[2, 1].item() == pytest.approx(expected, rel=1e-3), module


def test_predictions_are_those_of_the_first_view() -> None:
    net, (view_1, view_2) = small(), views()
    outcome = net(view_1, view_2)
    torch.testing.assert_close(outcome.q, net.predictor(net.project(view_1)).detach())
    assert net.target is None
