"""Quantisation-aware distillation: the encoder in INT8 learns to give the encoder's own embeddings, without labels.

It is BYOL with a frozen target: what the encoder in fp32 gives of an image is what the one in INT8 shall give. There is
no predictor and nothing to collapse, since the target stands still.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from byolt_export.arrays import Images, as_bytes
from byolt_export.distill.graph import Int8Graph

_BATCH, _LEAST_BATCH, _BATCH_PIXELS = 64, 8, 64 * 96 * 96
_KERNEL_RATE = 0.005
"""Levels of a kernel in a step of Adam: at 0.02 a MobileNetV3 lost a tenth of what this won, at 0.15 far more."""
_OFFSET_RATE = 3e-4  # Of a layer's median bias.
_WARM_UP_STEPS = 20
_MOST_SHIFT = 1 / 16  # Of the side.
_LINES = 5
"""Progress lines of a file."""


def tune(
    placed: Any,
    encoder: Any,
    images: Images,
    *,
    minutes: float,
    seed: int = 0,
    on_log: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Any:
    """A copy of a graph in INT8 whose kernels and biases have learned.

    Args:
        placed: Of ``place_tensorrt`` or ``place_cpu``.
        encoder: The same encoder in fp32, from the same images.
        images: Raw images (N, H, W, C), none of which may be used to measure the result.
        minutes: How long it learns; so the result differs from run to run.
        seed: Of the order of images and of their shifts.
        on_log: Takes a line on the progress.
        clock: Seconds.

    Raises:
        InputError: The graph has an operator that cannot be learned through.
    """
    on_log(f"tuning INT8 on {len(images)} images for {minutes:g} min")
    student, target = Int8Graph(placed), Int8Graph(encoder)
    rng = np.random.default_rng(seed)
    batch = int(np.clip(_BATCH_PIXELS // (images.shape[1] * images.shape[2]), _LEAST_BATCH, _BATCH))
    mean = torch.cat([_of(target, images[k : k + batch]) for k in range(0, min(len(images), 512), batch)]).mean(dim=0)
    optimizer = torch.optim.Adam(_rates(student), betas=(0.9, 0.99), eps=1e-15)  # Biases in int32 have tiny gradients.
    peaks = [group["lr"] for group in optimizer.param_groups]
    start, step, told, losses = clock(), 0, 0, []
    while (share := (clock() - start) / (60 * minutes)) < 1:
        rate = 0.5 * (1 + math.cos(math.pi * share)) * min(1, (step + 1) / _WARM_UP_STEPS)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate
        shown = shifted(images[rng.integers(0, len(images), batch)], rng)
        loss = regression_loss(student(torch.from_numpy(as_bytes(shown))) - mean, _of(target, shown) - mean)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        losses.append(float(loss.detach()))
        if share * _LINES >= told + 1:
            told += 1
            on_log(f"tuning INT8: {share * minutes:.1f} of {minutes:g} min, loss {np.mean(losses[-100:]):.2e}")
    return student.written()


def regression_loss(online: Tensor, target: Tensor) -> Tensor:
    """BYOL's: the squared distance of normalised embeddings (B, D), 2 - 2 cos (arXiv:2006.07733, equation 2), mean."""
    return (2 - 2 * F.cosine_similarity(online, target, dim=1)).mean()


def shifted(images: Images, rng: np.random.Generator) -> Images:
    """Images (B, H, W, C), half of them mirrored, each shifted by up to a sixteenth of its side, edges repeated."""
    most = [math.ceil(side * _MOST_SHIFT) for side in images.shape[1:3]]
    around = np.pad(images, ((0, 0), (most[0], most[0]), (most[1], most[1]), (0, 0)), mode="edge")
    result = np.empty_like(images)
    for k, image in enumerate(around):
        down, right = (int(rng.integers(0, 2 * shift + 1)) for shift in most)
        cut = image[down : down + images.shape[1], right : right + images.shape[2]]
        result[k] = cut[:, ::-1] if rng.random() < 0.5 else cut
    return result


def _of(target: Int8Graph, images: Images) -> Tensor:
    with torch.no_grad():
        embeddings: Tensor = target(torch.from_numpy(as_bytes(images)))
    return embeddings


def _rates(student: Int8Graph) -> list[dict[str, Any]]:
    """Groups of parameters: kernels in units of their levels, each layer's biases in units of their own size.

    That is the median: biases of channels that nothing comes out of may be a hundred thousand times as large.
    """
    sizes = [(offset, offset.detach().abs()) for offset in student.offsets.values()]
    kernels: dict[str, Any] = {"params": list(student.kernels.values()), "lr": _KERNEL_RATE}
    units = [(offset, float(size.median()) or float(size.mean())) for offset, size in sizes]
    return [kernels, *({"params": [offset], "lr": _OFFSET_RATE * max(unit, 1e-6)} for offset, unit in units)]
