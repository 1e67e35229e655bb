"""MoCo v2 and v3: losses against float64 references, the queue by hand, and which images a key is normalised among."""

import copy
import math
from typing import Any

import pytest
import torch
from tests.methods.small import apart, parts, slope, unit, views
from torch import Tensor, nn

from byolt.methods.moco_v2 import MocoV2
from byolt.methods.moco_v3 import MocoV3

T = 0.2


def v2(*, keys: int = 24, groups: int = 1, shuffle: bool = True) -> MocoV2:
    queue = torch.randn(keys, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    net = MocoV2(*parts(), temperature=T, queue=queue, norm_groups=groups, shuffle=shuffle).double()
    assert net.target is not None
    apart(net.target)
    return net


def v3() -> MocoV3:
    net = MocoV3(*parts(predictor=True), temperature=T).double()
    assert net.target is not None
    apart(net.target)
    return net


def test_contrast_against_the_queue_by_hand() -> None:
    # One query (1, 0) and its key (1, 0); the queue holds (0, 1) and (-1, 0): cosines 1, 0, -1 over T = 0.5.
    net = MocoV2(
        nn.Identity(), nn.Identity(), temperature=0.5, queue=torch.tensor([[0.0, 3.0], [-2.0, 0.0]]),
        norm_groups=1, shuffle=False,
    )  # fmt: skip
    loss = net.contrast(torch.tensor([[4.0, 0.0]]), torch.tensor([[2.0, 0.0]]), net.queue)
    assert loss.item() == pytest.approx(-math.log(math.e**2 / (math.e**2 + 1 + math.e**-2)))


def test_loss_and_gradient_of_v2_are_those_of_both_directions_with_keys_and_queue_held() -> None:
    net, (view_1, view_2) = v2(), views()
    other = copy.deepcopy(net)
    outcome = net(view_1, view_2)
    outcome.loss.backward()
    assert other.target is not None
    queue = other.queue.clone()
    key_1, key_2 = (unit(other.target(view)).detach() for view in (view_1, view_2))

    def one_way(view: Tensor, keys: Tensor) -> Tensor:
        query = unit(other.project(view))
        own = torch.exp((query * keys).sum(1) / T)
        return -torch.log(own / (own + torch.exp(query @ queue.T / T).sum(1))).mean()

    def loss() -> Tensor:
        return (one_way(view_1, key_2) + one_way(view_2, key_1)) / 2

    assert outcome.loss.item() == pytest.approx(loss().item(), rel=1e-5)
    expected = slope(loss, other.projector[0].weight, (2, 1))
    assert net.projector[0].weight.grad[2, 1].item() == pytest.approx(expected, rel=1e-3)


def test_the_keys_of_both_views_take_the_places_of_the_oldest() -> None:
    net, (view_1, view_2) = v2(keys=16), views(batch=6)
    other = copy.deepcopy(net)
    before = net.queue.clone()
    net(view_1, view_2)
    assert other.target is not None
    keys = torch.cat([unit(other.target(view_1)), unit(other.target(view_2))]).detach()
    torch.testing.assert_close(net.queue[:12], keys, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(net.queue[12:], before[12:])
    assert net.position.item() == 12
    net(view_1, view_2)  # Twelve more: four at the end, eight at the start.
    assert net.position.item() == 8
    torch.testing.assert_close(net.queue[8:12], keys[8:12], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(net.queue[12:], before[12:])


def test_the_queue_begins_as_unit_vectors_and_is_part_of_a_checkpoint() -> None:
    net = v2()
    torch.testing.assert_close(net.queue.norm(dim=1), torch.ones(24, dtype=torch.float64))
    assert {"queue", "position"} <= set(net.state_dict())


@pytest.mark.parametrize("shuffle", [True, False])
def test_keys_are_normalised_in_groups_and_come_back_in_order(shuffle: bool) -> None:
    net, (view_1, _) = v2(groups=2, shuffle=shuffle), views(batch=8)
    assert net.target is not None
    other = copy.deepcopy(net.target)
    # Shuffled, a group takes every second image; else the groups are the halves.
    groups = [[0, 2, 4, 6], [1, 3, 5, 7]] if shuffle else [[0, 1, 2, 3], [4, 5, 6, 7]]
    expected = torch.empty(8, 5, dtype=torch.float64)
    for group in groups:
        expected[group] = unit(other(view_1[group])).detach()
    torch.testing.assert_close(net._keys(view_1).double(), expected, rtol=1e-6, atol=1e-6)


def test_queries_are_normalised_in_the_halves_of_the_batch() -> None:
    net, (view_1, view_2) = v2(groups=2), views(batch=8)
    expected = torch.cat([net.project(view_1[:4]), net.project(view_1[4:])]).detach()
    torch.testing.assert_close(net(view_1, view_2).z[0], expected)


def test_loss_and_gradient_of_v3_are_those_of_algorithm_1() -> None:
    net, (view_1, view_2) = v3(), views()
    other = copy.deepcopy(net)
    outcome = net(view_1, view_2)
    outcome.loss.backward()
    assert other.target is not None
    key_1, key_2 = (unit(other.target(view)).detach() for view in (view_1, view_2))

    def ctr(view: Tensor, keys: Tensor) -> Tensor:
        query = unit(other.predictor(other.project(view)))
        exps = torch.exp(query @ keys.T / T)
        return 2 * T * -torch.log(exps.diagonal() / exps.sum(1)).mean()

    def loss() -> Tensor:
        return ctr(view_1, key_2) + ctr(view_2, key_1)

    assert outcome.loss.item() == pytest.approx(loss().item(), rel=1e-5)
    for module in ("projector", "predictor"):
        expected = slope(loss, getattr(other, module)[0].weight, (2, 1))
        assert getattr(net, module)[0].weight.grad[2, 1].item() == pytest.approx(expected, rel=1e-3), module


@pytest.mark.parametrize("make", [v2, v3])
def test_no_gradient_reaches_the_key_network_and_it_follows(make: Any) -> None:
    net = make()
    net(*views()).loss.backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in net.target.parameters())
    before = [weight.clone() for weight in net.target.parameters()]
    net.update_target(0.75)
    online = [*net.encoder.parameters(), *net.projector.parameters()]
    for old, new, fast in zip(before, net.target.parameters(), online, strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * fast.detach())
