"""Types of the arrays that every package here passes on.

Axes: N images, H W pixels, D output features.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from byolt_export.errors import InputError

Images = npt.NDArray[np.uint8]
"""(N, H, W, 3), RGB."""
Outputs = npt.NDArray[np.float32]
"""(N, D)."""
Labels = npt.NDArray[np.int64]
"""(N,)."""
Frames = Images | Sequence[Images]
"""One frame (H, W, 3), a batch (N, H, W, 3), or a list of frames of any sizes."""
Function = Callable[[Images], Outputs]
"""An encoder or a file of a bundle: images of one size to outputs."""


def check_batch(images: Images, shape: tuple[int, ...], name: str) -> None:
    """Refuse what is no batch of images of this shape (H, W, 3).

    Raises:
        InputError: The images have another type or shape; ``name`` opens the sentence.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        raise InputError(f"{name} wants uint8 images (batch, {wanted}), got {images.dtype} {images.shape}")
