"""Networks and views that several methods are tested on: small, and in float64."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def parts(*, predictor: bool = False, seed: int = 0) -> list[nn.Module]:
    """Encoder (B, 3, H, W) to (B, 4), projector to (B, 5), and where asked for a predictor (B, 5) to (B, 5)."""
    torch.manual_seed(seed)
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    found: list[nn.Module] = [encoder, head(4)]
    return [*found, head(5)] if predictor else found


def head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))


def views(batch: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Two views of other statistics, so that mixing the two shows."""
    generator = torch.Generator().manual_seed(seed)
    view_1, view_2 = torch.randn(2, batch, 3, 8, 8, generator=generator, dtype=torch.float64)
    return view_1, 2 * view_2 + 1


def unit(x: Tensor) -> Tensor:
    return x / x.pow(2).sum(1, keepdim=True).sqrt()


def apart(target: nn.Module) -> None:
    """Move a target away from the online network, as learning does."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in target.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))


def slope(loss: Callable[[], Tensor], weight: Tensor, index: tuple[int, ...]) -> float:
    """Central difference of ``loss`` by one weight."""
    step, found = 1e-4, []
    for sign in (1, -1):
        with torch.no_grad():
            weight[index] += sign * step
        found.append(loss().item())
        with torch.no_grad():
            weight[index] -= sign * step
    return (found[0] - found[1]) / (2 * step)
