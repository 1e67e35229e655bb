"""Types of the arrays that every package here passes on.

Axes: N images, H W pixels, D output features.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from byolt_export.errors import InputError

Images = npt.NDArray[np.uint8]
"""(N, H, W, 3), RGB."""
Outputs = npt.NDArray[np.float32]
"""(N, D)."""
Maps = Mapping[str, npt.NDArray[np.float32]]
"""Outputs by name, each (N, C, H, W), (N, tokens, C) or (N, C)."""
Labels = npt.NDArray[np.int64]
"""(N,)."""
Frames = Images | Sequence[Images]
"""One frame (H, W, 3), a batch (N, H, W, 3), or a list of frames of any sizes."""
Function = Callable[[Images], Outputs]
"""An encoder or a file of a bundle: images of one size to outputs."""


def pooled(outputs: Maps) -> Outputs:
    """One vector an image of outputs by name: maps (N, C, H, W) averaged over their places, tokens (N, T, C) over
    their number, vectors as they are, all in a row: (N, D), where D is the sum of their channels.
    """
    if len(outputs) == 1 and (only := next(iter(outputs.values()))).ndim == 2:
        return only
    places = {2: (), 3: (1,), 4: (2, 3)}
    means = [value.mean(axis=places[value.ndim], dtype=np.float64) for value in outputs.values()]
    return np.concatenate(means, axis=1).astype(np.float32)


def check_batch(images: Images, shape: tuple[int, ...], name: str) -> None:
    """Refuse what is no batch of images of this shape (H, W, 3).

    Raises:
        InputError: The images have another type or shape; ``name`` opens the sentence.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        raise InputError(f"{name} wants uint8 images (batch, {wanted}), got {images.dtype} {images.shape}")
