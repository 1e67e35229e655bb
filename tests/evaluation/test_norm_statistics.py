"""BatchNorm statistics taken anew from learning images: their values, their kinds, and what must not move."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from timm.layers import BatchNormAct2d, EvoNorm2dB0
from torch import Tensor, nn

from byolt.distributed.batch_norm import SyncBatchNorm
from byolt.evaluation import norm_statistics
from byolt.evaluation.norm_statistics import reestimate, reestimated
from byolt.views import normalise

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
HOW: dict[str, Any] = {"mean": MEAN, "std": STD, "seed": 0, "device": torch.device("cpu")}


class Pictures:
    """Images in memory that remember what was asked for."""

    def __init__(self, images: int, side: int = 6) -> None:
        self.pixels = np.random.default_rng(1).integers(0, 256, (images, side, side, 3), dtype=np.uint8)
        self.pixels[: images // 2] //= 4  # The first half is dark: classes lie side by side.
        self.asked: list[npt.NDArray[np.int64]] = []

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: npt.NDArray[np.int64], /) -> npt.NDArray[np.uint8]:
        self.asked.append(indices)
        return self.pixels[indices]

    def normalised(self) -> Tensor:
        return normalise(torch.from_numpy(self.pixels), MEAN, STD)


def network(*norms: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for norm in norms for layer in (nn.LazyConv2d(4, 3, padding=1), norm, nn.ReLU())]
    made = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        made.eval()(torch.zeros(2, 3, 6, 6))
    return made


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_the_statistics_are_those_of_all_images_whatever_they_were_and_whatever_the_momentum() -> None:
    pictures, norm = Pictures(96), nn.BatchNorm2d(4, momentum=0.0003)
    made = network(norm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.fill_(7)
    norm.running_var.fill_(1e9)
    norm_statistics_batches = -(-96 // norm_statistics.BATCH)
    done = reestimate(made, pictures, **HOW)
    x = made[0](pictures.normalised()).double().transpose(0, 1).flatten(1).detach()  # (D, B H W)
    torch.testing.assert_close(norm.running_mean.double(), x.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), x.var(1), rtol=1e-5, atol=1e-6)
    assert (done["layers"], done["images"], done["batch"]) == (1, 96, 96)
    assert norm_statistics_batches == len(pictures.asked) == 1


def test_over_several_batches_the_variance_holds_what_lies_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_statistics, "BATCH", 20)
    pictures, norm = Pictures(50), nn.BatchNorm2d(4)
    made = network(norm)
    done = reestimate(made, pictures, **HOW)
    assert [len(part) for part in pictures.asked] == [17, 17, 16]
    assert done["batch"] == 17
    x = made[0](pictures.normalised()).double().transpose(0, 1).flatten(1).detach()
    torch.testing.assert_close(norm.running_mean.double(), x.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), x.var(1), rtol=1e-5, atol=1e-6)
    order = np.concatenate(pictures.asked)
    assert sorted(order) == list(range(50))
    assert 3 < (pictures.asked[0] < 25).sum() < 14  # Dark and bright ones in every batch.
    again = Pictures(50)
    reestimate(made, again, **HOW)
    np.testing.assert_array_equal(np.concatenate(again.asked), order)
    other = Pictures(50)
    reestimate(made, other, **(HOW | {"seed": 1}))
    assert (np.concatenate(other.asked) != order).any()


@pytest.mark.parametrize("momentum", [0.01, 0.1, None])
def test_each_norm_sees_what_it_is_given_in_learning(momentum: float | None) -> None:
    """Of one batch: torch's own train mode with a cumulative average."""
    pictures = Pictures(40)
    made = network(*(nn.BatchNorm2d(4, momentum=momentum) for _ in range(3)))
    own = network(*(nn.BatchNorm2d(4, momentum=None) for _ in range(3))).train()
    own.load_state_dict(made.state_dict())
    for layer in own.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    own(pictures.normalised())
    reestimate(made, pictures, **HOW)
    for name, value in own.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(made.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["timm's with its activation", "of several processes", "torch's of several processes"])
def test_every_kind_of_batch_norm_is_meant(kind: str) -> None:
    pictures, plain = Pictures(40), network(nn.BatchNorm2d(4))
    expected = network(nn.BatchNorm2d(4))
    reestimate(expected, pictures, **HOW)
    norms = {"timm's with its activation": BatchNormAct2d(4), "of several processes": SyncBatchNorm(plain[1])}
    made = network(norms.get(kind, nn.SyncBatchNorm(4)))
    reestimate(made, pictures, **HOW)
    torch.testing.assert_close(made[1].running_mean, expected[1].running_mean)
    torch.testing.assert_close(made[1].running_var, expected[1].running_var)


@pytest.mark.parametrize("norm", [EvoNorm2dB0(4), nn.InstanceNorm2d(4, track_running_stats=True)])
def test_other_norms_of_moving_averages_take_a_cumulative_one(monkeypatch: pytest.MonkeyPatch, norm: nn.Module) -> None:
    monkeypatch.setattr(norm_statistics, "BATCH", 10)
    made, pictures = network(norm), Pictures(20)
    reestimate(made, pictures, **HOW)
    x = made[0](pictures.normalised()[np.concatenate(pictures.asked)]).detach()
    parts = [part.transpose(0, 1).flatten(1).var(1) for part in x.chunk(2)]
    if isinstance(norm, nn.InstanceNorm2d):
        parts = [part.var((2, 3)).mean(0) for part in x.chunk(2)]
    torch.testing.assert_close(norm.running_var, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1
    assert not norm.training


def test_of_many_images_2048_are_looked_at_evenly_spread() -> None:
    pictures, made = Pictures(5000, side=2), nn.Sequential(nn.BatchNorm2d(3), nn.Flatten())
    done = reestimate(made, pictures, **HOW)
    seen = np.sort(np.concatenate(pictures.asked))
    assert done["images"] == len(seen) == 2048
    assert np.diff(seen).max() <= 3


def test_without_such_norms_no_image_is_read_and_nothing_moves() -> None:
    pictures = Pictures(20)
    made = nn.Sequential(nn.Flatten(), nn.Linear(108, 8), nn.LayerNorm(8), nn.BatchNorm1d(8, track_running_stats=False))
    before = state(made)
    with reestimated(made, pictures, **HOW) as done:
        assert done == {"layers": 0}
    assert not pictures.asked
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_after_the_look_all_is_as_it_was_bit_for_bit_and_in_its_place() -> None:
    norm, odd = nn.BatchNorm2d(4), EvoNorm2dB0(4)
    made = network(norm, odd).train()
    made[4].eval()  # A part that is frozen stays so.
    made(torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(3)))
    before, places = state(made), {name: value.data_ptr() for name, value in made.state_dict().items()}
    modes = [module.training for module in made.modules()]

    def fail_inside() -> None:
        with reestimated(made, Pictures(20), **HOW):
            assert not torch.equal(made[1].running_mean, before["1.running_mean"])
            assert not torch.equal(made[4].running_var, before["4.running_var"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert {name: value.data_ptr() for name, value in made.state_dict().items()} == places
    assert [module.training for module in made.modules()] == modes
    assert not any(module._forward_pre_hooks for module in made.modules())
    made(torch.zeros(4, 3, 6, 6)).sum().backward()
