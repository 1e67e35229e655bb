"""A small encoder, images, and the bundle of both: the same in every process."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from byolt_export.deliver import build_bundle
from byolt_export.verify import Report

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE_PX, MAX_BATCH = 32, 10
HOW: dict[str, Any] = {"mean": MEAN, "std": STD}


def images(count: int = 24) -> npt.NDArray[np.uint8]:
    """Coloured noise of 8 px blots, each image of its own tint and contrast."""
    rng = np.random.default_rng(0)
    blots = rng.normal(size=(count, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
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


def build(folder: Path, module: nn.Module | None = None, **changes: Any) -> Report:
    """The bundle of the small encoder; ``changes`` replaces arguments of ``build_bundle``."""
    arguments: dict[str, Any] = {
        "golden_images": images(),
        "golden_kind": "synthetic",
        "image_size_px": SIZE_PX,
        "resize": "crop",
        "max_batch": MAX_BATCH,
        "recipe_hash": "0123abcd",
        **HOW,
    }
    return build_bundle(encoder() if module is None else module, folder, **(arguments | changes))


if __name__ == "__main__":
    torch.set_num_threads(1)
    build(Path(sys.argv[1]))
