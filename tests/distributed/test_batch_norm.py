"""BatchNorm over the global batch: in one process it is torch's own, weights, statistics and gradients."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from byolt.distributed.batch_norm import SyncBatchNorm, synchronise_norms

CPU = torch.device("cpu")


def rows(shape: tuple[int, ...] = (6, 4, 5, 5)) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm2d(4), (6, 4, 5, 5)),
        (nn.BatchNorm1d(4), (6, 4)),
        (nn.BatchNorm1d(4, affine=False, momentum=0.3), (6, 4)),
        (nn.BatchNorm2d(4, track_running_stats=False), (6, 4, 5, 5)),
        (BatchNormAct2d(4), (6, 4, 5, 5)),  # It holds a ReLU.
    ],
)
def test_alone_it_is_torchs_batchnorm(norm: nn.Module, shape: tuple[int, ...]) -> None:
    norm = norm.double()
    for weight in norm.parameters():
        nn.init.normal_(weight)
    ours = synchronise_norms(copy.deepcopy(norm), CPU)
    assert isinstance(ours, SyncBatchNorm)
    found = []
    for module in (norm, ours):
        x = rows(shape).requires_grad_()
        out = module(module(x))
        out.square().sum().backward()
        found.append([out, x.grad, *(p.grad for p in module.parameters()), *module.buffers(), module.eval()(x)])
    assert ours.state_dict().keys() == norm.state_dict().keys()
    for theirs, own in zip(*found, strict=True):
        torch.testing.assert_close(own, theirs)


def test_under_autocast_statistics_are_float32_and_the_output_is_not() -> None:
    norm = SyncBatchNorm(nn.BatchNorm1d(4))
    out = norm(rows((6, 4)).bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(norm.running_mean, 0.1 * rows((6, 4)).bfloat16().float().mean(0))


def test_every_norm_of_a_network_is_replaced_under_its_name() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4)))
    before = network.state_dict().keys()
    assert synchronise_norms(network, CPU) is network
    assert network.state_dict().keys() == before
    assert not any(type(module) is nn.BatchNorm2d for module in network.modules())
