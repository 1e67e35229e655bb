"""A small encoder, images, and the bundle of both: the same in every process."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from byolt_export import BundleOptions, ProofImages, build_bundle
from byolt_export.bundle.image_input import Input
from byolt_export.proof.report import Report

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE_PX, MAX_BATCH = 32, 10
PIXELS = Input(size_px=SIZE_PX, resize="crop", max_batch=MAX_BATCH, mean=MEAN, std=STD)
HOW: dict[str, Any] = {"pixels": PIXELS}


def images(count: int = 24, size_px: int = SIZE_PX, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Coloured noise of 8 px blots, each image of its own tint and contrast."""
    rng = np.random.default_rng(seed)
    side = size_px // 8
    blots = rng.normal(size=(count, side, side, 3)).repeat(8, axis=1).repeat(8, axis=2)
    pixels = 128 + 60 * rng.normal(size=(count, 1, 1, 3)) + rng.uniform(10, 80, (count, 1, 1, 1)) * blots
    return np.clip(pixels, 0, 255).astype(np.uint8)


def encoder(num_classes: int = 0) -> nn.Module:
    """A ResNet of four blocks whose BatchNorm has statistics and gains as after training; in train mode."""
    import timm

    torch.manual_seed(0)
    model: nn.Module = timm.create_model(
        "resnet18", layers=(1, 1, 1, 1), channels=(8, 16, 16, 32), num_classes=num_classes
    )
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            layer.running_mean.normal_(std=0.2)  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.train()


class Inverted(nn.Module):
    """Two inverted residual blocks: convolutions of single pixels, of each channel, of single pixels, and a sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(16, 48, 1), nn.ReLU(), nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.ReLU()),
                nn.Conv2d(48, 16, 1),
            )
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, S, S) to (B, 16)."""
        x = self.stem(x).relu()
        for block in self.blocks:
            x = x + 3 * block(x)
        return x.mean((2, 3))


class Windows(nn.Module):
    """Convolutions whose windows are of all kinds: unequal sides, steps, gaps and edges, and every second pixel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 36, (4, 2), stride=(4, 2))
        self.wide = nn.Conv2d(36, 32, (3, 2), stride=(2, 1), dilation=(1, 3), padding=(1, 2))
        self.second = nn.Conv2d(36, 40, 1, stride=2)
        self.few = nn.Conv2d(36, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, S, S) to (B, D)."""
        x = self.stem(x) + 1  # Where 0 is no end of the levels, padding has a level of its own.
        return torch.cat([(layer(x) / 2).flatten(1) for layer in (self.wide, self.second, self.few)], dim=1)


def build(folder: Path, module: nn.Module | None = None, **changes: Any) -> Report:
    """The bundle of the small encoder; ``changes`` replaces arguments of ``build_bundle``, its options and images."""
    shown = {field.name: changes.pop(field.name) for field in fields(ProofImages) if field.name in changes}
    options = {field.name: changes.pop(field.name) for field in fields(BundleOptions) if field.name in changes}
    arguments: dict[str, Any] = {
        "images": ProofImages(**({"golden": images(), "golden_kind": "synthetic"} | shown)),
        "size_px": SIZE_PX,
        "options": BundleOptions(**({"opt_batch": 1, "max_batch": MAX_BATCH, "recipe_hash": "0123abcd"} | options)),
    }
    return build_bundle(encoder() if module is None else module, folder, **(arguments | changes))


if __name__ == "__main__":
    torch.set_num_threads(1)
    build(Path(sys.argv[1]), precisions=("fp32", "fp16"))
