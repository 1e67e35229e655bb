"""NT-Xent against values worked out by hand and a double loop in float64."""

import copy
import math

import pytest
import torch
from tests.methods.small import parts, slope, unit, views
from torch import Tensor

from byolt.methods.simclr import SimClr, nt_xent


def reference(z_1: Tensor, z_2: Tensor, temperature: float) -> Tensor:
    """Equation 1 written out: a loop over all 2B views and all others."""
    z = unit(torch.cat([z_1, z_2]))
    batch, losses = len(z_1), []
    for i in range(2 * batch):
        j = (i + batch) % (2 * batch)
        exps = [torch.exp(z[i] @ z[k] / temperature) for k in range(2 * batch) if k != i]
        losses.append(-torch.log(torch.exp(z[i] @ z[j] / temperature) / torch.stack(exps).sum()))
    return torch.stack(losses).mean()


def test_loss_of_two_images_by_hand() -> None:
    # Both views of image 1 are (1, 0), both of image 2 are (0, 1). For each view: its pair has cosine 1, the two others
    # 0: -ln(e^2 / (e^2 + 2 e^0)) at T = 0.5.
    z = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    assert nt_xent(z, 5 * z, 0.5).item() == pytest.approx(-math.log(math.e**2 / (math.e**2 + 2)))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_matches_equation_1(temperature: float) -> None:
    z_1, z_2 = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = reference(z_1, z_2, temperature).item()
    assert nt_xent(z_1, z_2, temperature).item() == pytest.approx(expected, rel=1e-5)  # Computed in float32.


def test_gradient_through_both_views_is_that_of_the_loss() -> None:
    net, (view_1, view_2) = SimClr(*parts(), temperature=0.5).double(), views()
    outcome = net(view_1, view_2)
    outcome.loss.backward()
    other = copy.deepcopy(net)

    def loss() -> Tensor:
        return reference(other.project(view_1), other.project(view_2), 0.5)

    assert outcome.loss.item() == pytest.approx(loss().item(), rel=1e-5)
    expected = slope(loss, other.projector[0].weight, (2, 1))
    assert net.projector[0].weight.grad[2, 1].item() == pytest.approx(expected, rel=1e-3)


def test_each_view_has_its_own_batch_statistics_and_no_other_network() -> None:
    net, (view_1, view_2) = SimClr(*parts(), temperature=0.5).double(), views()
    outcome = net(view_1, view_2)
    torch.testing.assert_close(outcome.z[0], net.project(view_1).detach())
    torch.testing.assert_close(outcome.z[1], net.project(view_2).detach())
    assert net.target is None
    assert outcome.q is None
