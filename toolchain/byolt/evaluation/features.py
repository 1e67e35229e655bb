"""Frozen features: images in, one vector an image out.

Axes: N images of a store, B images of a batch, S side in pixels, D features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Float32, UInt
from torch import Tensor, nn

from byolt.views import normalise
from byolt_export.errors import TrainingFault

Rgb = tuple[float, float, float]
Indices = npt.NDArray[np.int64]


@runtime_checkable  # Where annotations are checked while the tests run, this one is asked by isinstance.
class Images(Protocol):
    """Decoded square images that are fetched by index; ``data.store.ImageStore`` is one."""

    def __len__(self) -> int: ...

    def batch(self, indices: Indices, /) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Images (B, S, S, C) at ``indices``: RGB of 8 bits, or grey of more."""
        ...


@dataclass(frozen=True)
class Subset:
    """The images at ``indices`` of a larger store: a validation split, a probe set, a share of labels."""

    images: Images
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Indices, /) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Images (B, S, S, C) at ``indices`` of this subset."""
        return self.images.batch(self.indices[indices])


@dataclass(frozen=True)
class LabelledImages:
    """Images, and the class of each, (N,), in 0 .. ``classes`` - 1."""

    images: Images
    labels: Indices
    classes: int

    def subset(self, indices: Indices) -> "LabelledImages":
        """The images at ``indices`` with their labels."""
        return LabelledImages(Subset(self.images, indices), self.labels[indices], self.classes)


def batches(images: Images, batch_size: int) -> Iterator[UInt[Tensor, "B S S C"]]:
    """All images in their order, at most ``batch_size`` at a time."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(images.batch(np.arange(start, min(start + batch_size, len(images)))))


class NonFiniteFeatures(TrainingFault):
    """A network gives NaN or infinity for an image: nothing can be measured by it."""


def refuse_non_finite(features: Float[Tensor, "N D"], what: str) -> None:
    """Refuse outputs of which no accuracy, neighbour or embedding would mean anything: argmax of NaN is a class too.

    Args:
        features: Features or logits, a row an image.
        what: What they are of, for the sentence.

    Raises:
        NonFiniteFeatures: A number is NaN or infinite.
    """
    bad = ~torch.isfinite(features).all(1)
    if bool(bad.any()):
        first = int(bad.int().argmax())
        raise NonFiniteFeatures(
            f"{what}: {int(bad.sum())} of {len(bad)} images get NaN or infinity, the first number {first} from 0; the "
            "weights are too large or damaged: learn again with a lower learning rate (optim.base_lr, of a "
            "classifier finetune.base_lr)"
        )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; each submodule's own mode is restored after."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def embed(
    encoder: nn.Module,
    images: Images,
    *,
    mean: Rgb,
    std: Rgb,
    device: torch.device | str,
    white: int = 255,
    batch_size: int = 256,
) -> Float32[Tensor, "N D"]:
    """Features of every image, in order, without augmentation, in float32.

    Args:
        encoder: Gives (B, D) from normalised (B, 3, S, S); lies on ``device`` and keeps its modes.
        images: At least one.
        mean, std: Channel statistics for pixels in 0 to 1.
        device: Where the encoder lies.
        white: The value of a pixel that is 1.
        batch_size: Images a forward pass.

    Returns:
        Features (N, D) on the CPU.

    Raises:
        NonFiniteFeatures: A feature is NaN or infinite.
    """
    with evaluating(encoder):
        parts = [
            encoder(normalise(batch.to(device), mean, std, white)).float().cpu()
            for batch in batches(images, batch_size)
        ]
    features = torch.cat(parts)  # Outside the block, so that the result is an ordinary tensor that autograd takes.
    refuse_non_finite(features, type(encoder).__name__)
    return features
