"""BYOL's loss, gradient and target against hand-computed and float64 values."""

import copy
from typing import Literal

import pytest
import torch
from torch import nn

from byolt.methods.byol import Byol, negative_term, regression_loss
from byolt.training.optimizers import Lars


def small_byol(*, predictor: bool = True, target: Literal["ema", "copy", "frozen"] = "ema", seed: int = 0) -> Byol:
    torch.manual_seed(seed)
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    projector = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))
    head = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)) if predictor else None
    return Byol(encoder, projector, head, target=target).double()


def views(batch: int = 6, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    view_1, view_2 = torch.randn(2, batch, 3, 8, 8, generator=generator, dtype=torch.float64)
    return view_1, 2 * view_2 + 1  # Other statistics than view 1, so that mixing the two shows.


def test_loss_of_one_pair_by_hand() -> None:
    # cos((3, 4), (4, 3)) = 24 / 25, so the loss is 2 - 48 / 25 = 0.08.
    assert regression_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])).item() == pytest.approx(0.08)


def test_loss_is_a_mean_over_the_batch() -> None:
    # Rows give 0.08, 0 and 4: mean 1.36.
    q = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    z = torch.tensor([[4.0, 3.0], [5.0, 0.0], [0.0, -1.0]])
    assert regression_loss(q, z).item() == pytest.approx((0.08 + 0 + 4) / 3)


def test_loss_refuses_shapes_that_would_broadcast() -> None:
    with pytest.raises(Exception, match="regression_loss"):
        regression_loss(torch.ones(4, 1), torch.ones(4, 9))


def reference_loss(net: Byol, view_1: torch.Tensor, view_2: torch.Tensor) -> torch.Tensor:
    """Equation 2 written out with explicit norms, one view at a time, on a copy in train mode."""
    copied = copy.deepcopy(net)
    assert copied.target is not None

    def one_way(source: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        assert copied.predictor is not None
        q = copied.predictor(copied.projector(copied.encoder(source)))
        z = copied.target(goal).detach()
        unit_q = q / q.pow(2).sum(1, keepdim=True).sqrt()
        unit_z = z / z.pow(2).sum(1, keepdim=True).sqrt()
        return (unit_q - unit_z).pow(2).sum(1).sum() / len(source)

    return one_way(view_1, view_2) + one_way(view_2, view_1)


def test_symmetric_loss_and_gradient_match_equation_2_in_float64() -> None:
    net, (view_1, view_2) = small_byol(), views()
    with torch.no_grad():
        for weight in net.target.parameters():
            weight.add_(0.1 * torch.randn_like(weight))  # A target that is not the online network.
    expected = reference_loss(net, view_1, view_2)
    outcome = net(view_1, view_2)
    # regression_loss computes in float32: 1e-5 relative.
    assert outcome.loss.item() == pytest.approx(expected.item(), rel=1e-5)

    outcome.loss.backward()
    step = 1e-4
    weight = net.projector[0].weight
    moved = {}
    for sign in (1, -1):
        shifted = copy.deepcopy(net)
        with torch.no_grad():
            shifted.projector[0].weight[2, 1] += sign * step
        moved[sign] = reference_loss(shifted, view_1, view_2).item()
    # Central difference of the float64 reference, target held: 1e-3 relative covers the float32 loss.
    assert weight.grad[2, 1].item() == pytest.approx((moved[1] - moved[-1]) / (2 * step), rel=1e-3)


def test_no_gradient_reaches_the_target() -> None:
    net = small_byol()
    net(*views()).loss.backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in net.target.parameters())
    assert all(
        weight.grad is not None and weight.grad.abs().sum() > 0
        for weight in net.predictor.parameters()
        if weight.ndim > 1
    )


def test_a_copied_target_stands_behind_a_stop_gradient() -> None:
    net, (view_1, view_2) = small_byol(target="copy"), views()
    reference = copy.deepcopy(net)
    z_1 = reference.projector(reference.encoder(view_1))
    z_2 = reference.projector(reference.encoder(view_2))
    loss = regression_loss(reference.predictor(z_1), z_2.detach()) + regression_loss(
        reference.predictor(z_2), z_1.detach()
    )
    loss.backward()
    net(view_1, view_2).loss.backward()
    torch.testing.assert_close(net.encoder[0].weight.grad, reference.encoder[0].weight.grad)


def test_each_view_has_its_own_batch_statistics() -> None:
    """Running means are those of two forwards, one a view: 0.9 (0.1 m_1) + 0.1 m_2, not a mean over both views."""
    net, (view_1, view_2) = small_byol(), views()
    with torch.no_grad():
        m_1, m_2 = (net.encoder[0](view).mean((0, 2, 3)) for view in (view_1, view_2))
    outcome = net(view_1, view_2)
    torch.testing.assert_close(net.encoder[1].running_mean, 0.9 * (0.1 * m_1) + 0.1 * m_2)
    alone = net.projector(net.encoder(view_1))
    torch.testing.assert_close(outcome.z[0], alone.detach())


def test_the_target_uses_batch_statistics_and_its_own_running_means() -> None:
    net, (view_1, view_2) = small_byol(), views()
    net(view_1, view_2)
    with torch.no_grad():
        m_1, m_2 = (net.target[0][0](view).mean((0, 2, 3)) for view in (view_1, view_2))
    torch.testing.assert_close(net.target[0][1].running_mean, 0.9 * (0.1 * m_1) + 0.1 * m_2)
    assert net.target.training


@pytest.mark.parametrize(("tau", "expected"), [(1.0, 2.0), (0.0, 6.0), (0.75, 3.0)])
def test_target_update_by_hand(tau: float, expected: float) -> None:
    # xi = 2, theta = 6: tau xi + (1 - tau) theta = 2, 6 and 0.75 * 2 + 0.25 * 6 = 3.
    net = small_byol()
    with torch.no_grad():
        for weight in (*net.encoder.parameters(), *net.projector.parameters()):
            weight.fill_(6.0)
        for weight in net.target.parameters():
            weight.fill_(2.0)
    net.update_target(tau)
    assert all(torch.equal(weight, torch.full_like(weight, expected)) for weight in net.target.parameters())


def test_target_update_leaves_buffers_alone() -> None:
    net = small_byol()
    net.encoder[1].running_mean.fill_(5.0)
    net.target[0][1].running_mean.fill_(3.0)
    before = net.target[0][1].running_mean.clone()
    net.update_target(0.5)
    assert torch.equal(net.target[0][1].running_mean, before)


def test_the_target_starts_as_the_online_network_and_shares_no_memory() -> None:
    net = small_byol()
    online = [*net.encoder.parameters(), *net.projector.parameters()]
    for slow, fast in zip(net.target.parameters(), online, strict=True):
        assert torch.equal(slow, fast)
        assert slow.data_ptr() != fast.data_ptr()


def test_without_predictor_and_with_a_copied_target_the_projection_collapses() -> None:
    """The loss alone pulls both views together: nothing keeps the images apart."""
    net, (view_1, view_2) = small_byol(predictor=False, target="copy"), views(batch=16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        net(view_1, view_2).loss.backward()
        optimizer.step()
    z = nn.functional.normalize(net(view_1, view_2).z[0], dim=1)
    assert z.std(0).mean() * 5**0.5 < 0.25


def test_lars_moves_only_what_has_a_gradient() -> None:
    net = small_byol()
    before = [weight.clone() for weight in net.target.parameters()]
    optimizer = Lars(net.parameters(), lr=0.1)
    net(*views()).loss.backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, net.target.parameters(), strict=True))


def test_a_frozen_target_never_moves() -> None:
    net = small_byol(target="frozen")
    with torch.no_grad():
        net.encoder[0].weight.add_(1.0)
    before = [weight.clone() for weight in net.target.parameters()]
    net.update_target(0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, net.target.parameters(), strict=True))


def test_without_stop_gradient_both_sides_are_pulled() -> None:
    net, (view_1, view_2) = small_byol(target="copy"), views()
    net.stop_gradient = False
    reference = copy.deepcopy(net)
    z_1, z_2 = reference.project(view_1), reference.project(view_2)
    (regression_loss(reference.predictor(z_1), z_2) + regression_loss(reference.predictor(z_2), z_1)).backward()
    net(view_1, view_2).loss.backward()
    torch.testing.assert_close(net.encoder[0].weight.grad, reference.encoder[0].weight.grad)


def test_other_normalisations_by_hand() -> None:
    # none: (3 - 1)^2 + (4 - 2)^2 = 8 and 0, mean 4.
    q, z = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[1.0, 2.0], [1.0, 1.0]])
    assert regression_loss(q, z, "none").item() == pytest.approx(4.0)
    # layer: rows less their own mean over their own deviation are (-1, 1) and (1, -1), over sqrt(2): 4 / 2 + 4 / 2.
    q, z = torch.tensor([[3.0, 5.0], [0.0, 100.0]]), torch.tensor([[9.0, 1.0], [40.0, -40.0]])
    assert regression_loss(q, z, "layer").item() == pytest.approx(4.0, rel=1e-4)
    # batch: columns likewise; the first column agrees, the second is turned round: 4 / 2 for each image.
    q, z = torch.tensor([[0.0, 0.0], [10.0, 10.0]]), torch.tensor([[5.0, 7.0], [7.0, 5.0]])
    assert regression_loss(q, z, "batch").item() == pytest.approx(2.0, rel=1e-4)


def test_negatives_push_as_in_the_appendix() -> None:
    """Appendix F.4: mean over i of 2 T ln(sum over j != i of e^(S(i, j) / T) + sum over j of e^(S(i, j') / T))."""
    q, same, other = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b / (a.norm() * b.norm())

    terms = []
    for i in range(4):
        within = [torch.exp(cosine(q[i], same[j]) / 0.3) for j in range(4) if j != i]
        across = [torch.exp(cosine(q[i], other[j]) / 0.3) for j in range(4)]
        terms.append(2 * 0.3 * torch.log(torch.stack(within + across).sum()))
    assert negative_term(q, same, other, 0.3).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


def test_beta_weighs_the_negatives_of_both_directions() -> None:
    net, (view_1, view_2) = small_byol(), views()
    plain = net(view_1, view_2).loss
    q_1, q_2 = net.predictor(net.project(view_1)), net.predictor(net.project(view_2))
    t_1, t_2 = net.target(view_1), net.target(view_2)
    pushed = negative_term(q_1, t_1, t_2, 0.1) + negative_term(q_2, t_2, t_1, 0.1)
    net.beta = 0.3
    torch.testing.assert_close(net(view_1, view_2).loss, plain + 0.3 * pushed, rtol=1e-5, atol=1e-5)
    net.zero_grad()
    pushed.backward()
    assert net.projector[0].weight.grad.abs().max() > 1e-4  # The term is alive.


def test_predictions_are_those_of_the_first_view() -> None:
    net, (view_1, view_2) = small_byol(), views()
    torch.testing.assert_close(net(view_1, view_2).q, net.predictor(net.project(view_1)).detach())
    assert small_byol(predictor=False)(view_1, view_2).q is None
