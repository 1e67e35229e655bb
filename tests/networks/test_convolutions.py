"""The weights' gradient tap by tap against autograd's, and that nothing else of a network changes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from byolt.networks.convolutions import speed_up_convolutions, weight_gradient
from byolt.networks.encoders import build_encoder
from byolt.recipe.model import Model

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, 0), (2, 0), (4, 1), (5, 2), (7, 3)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (2, 6)])
def test_the_gradient_is_autograds(kernel: int, padding: int, stride: int, shape: tuple[int, int]) -> None:
    if min(shape) + 2 * padding < kernel:
        pytest.skip("no output")
    x = torch.randn(3, 2, *shape, dtype=torch.float64)
    weight = torch.randn(5, 2, kernel, kernel, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, weight, stride=stride, padding=padding)
    gradient = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, weight, gradient)
    torch.testing.assert_close(weight_gradient(x, gradient, kernel, stride, padding), expected, rtol=1e-12, atol=1e-12)


def test_a_map_of_one_pixel_meets_the_middle_of_the_kernel_alone() -> None:
    found = weight_gradient(torch.tensor([[[[2.0]]]]), torch.tensor([[[[3.0]]]]), 3, 1, 1)
    assert found.flatten().tolist() == [0, 0, 0, 0, 6, 0, 0, 0, 0]


def test_a_network_computes_the_same_and_learns_the_same() -> None:
    plain, _ = build_encoder(Model(backbone="resnet18", stem="small"), seed=0, image_size_px=16)
    plain.double()
    changed = copy.deepcopy(plain)
    speed_up_convolutions(changed, CPU)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    outputs = [network(x) for network in (plain, changed)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    assert plain.state_dict().keys() == changed.state_dict().keys()
    gradients = {name: weight.grad for name, weight in plain.named_parameters()}
    for name, weight in changed.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-9, atol=1e-12)
    assert [name for name, module in changed.named_modules() if _takes_products(module)]


def _takes_products(module: nn.Module, side: int = 4) -> bool:
    if not isinstance(module, nn.Conv2d):
        return False
    x = torch.randn(2, module.in_channels, side, side, dtype=module.weight.dtype, requires_grad=True)
    return type(module(x).grad_fn).__name__ == "_ConvolutionBackward"


def test_only_plain_convolutions_are_changed_and_only_where_products_are_the_faster() -> None:
    class Own(nn.Conv2d):
        pass

    def conv(*, kind: type[nn.Conv2d] = nn.Conv2d, channels: int = 128, size: int = 3, **settings: object) -> nn.Conv2d:
        return kind(channels, channels, size, **({"padding": 1, "bias": False} | settings))

    fast = conv()
    others = [
        conv(kind=Own),
        conv(groups=2),
        conv(dilation=2),
        conv(size=1, padding=0),
        conv(padding_mode="circular"),
        conv(padding="same"),
        conv(bias=True),
        conv(channels=127),
        nn.Conv2d(128, 128, (3, 1), padding=1, bias=False),
    ]
    network = nn.ModuleList([fast, *others])
    speed_up_convolutions(network, torch.device("cuda"))
    assert not any(_takes_products(layer) for layer in network)
    speed_up_convolutions(network, CPU)
    assert [_takes_products(layer) for layer in network] == [True] + [False] * len(others)
    fast = network[0]
    assert not _takes_products(fast, side=5)
    with torch.no_grad():
        assert not _takes_products(fast)
    with torch.autocast("cpu", torch.bfloat16):
        assert not _takes_products(fast)
    assert not _takes_products(fast.requires_grad_(False))


def test_a_copy_learns_its_own_weights() -> None:
    first = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1, bias=False))
    speed_up_convolutions(first, CPU)
    second = copy.deepcopy(first)
    second(torch.randn(2, 128, 4, 4)).sum().backward()
    assert second[0].weight.grad is not None
    assert first[0].weight.grad is None
