"""Types of the arrays that every package here passes on.

Axes: N images, H W pixels, D output features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt_export.errors import InputError

Images = npt.NDArray[np.unsignedinteger[Any]]
"""(N, H, W, C): RGB, or grey (C = 1); uint8, or uint16 of more than 8 bits."""
Outputs = npt.NDArray[np.float32]
"""(N, D)."""
Maps = Mapping[str, npt.NDArray[np.float32]]
"""Outputs by name, each (N, C, H, W), (N, tokens, C) or (N, C)."""
Labels = npt.NDArray[np.int64]
"""(N,)."""
Frames = Images | Sequence[Images]
"""One frame (H, W, C), a batch (N, H, W, C), or a list of frames of any sizes; of grey ones C may be left out."""
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


def as_bytes(images: Images) -> npt.NDArray[np.uint8]:
    """Images (N, H, W, C) as a file takes them: uint8 as they are; of uint16 each sample as two bytes, the low one
    first, (N, H, W, 2 C): as they lie in memory, since TensorRT has no uint16.
    """
    return np.ascontiguousarray(images, np.dtype(images.dtype).newbyteorder("<")).view(np.uint8)


def image_of(tensor: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """Shape (H, W, C) and type of the images that a file takes as bytes of this shape: ``as_bytes`` backwards.

    The shape is empty where it is none of images.
    """
    *sides, last = tensor
    if len(sides) != 2 or last not in (1, 2, 3, 6):
        return (), "uint8"
    return ((*sides, last), "uint8") if last % 2 else ((*sides, last // 2), "uint16")


def as_rgb(images: Images, white: int) -> npt.NDArray[np.uint8]:
    """Images (..., C) for the eye: 8 bits, three channels."""
    eight = images if white == 255 else (images.astype(np.uint32) * 255 + white // 2) // white
    return np.repeat(eight.astype(np.uint8), 3 // images.shape[-1], axis=-1)


def check_batch(images: Images, shape: tuple[int, ...], name: str, dtype: str = "uint8") -> None:
    """Refuse what is no batch of images of this shape (H, W, C) and type.

    Raises:
        InputError: The images have another type or shape; ``name`` opens the sentence.
    """
    if images.dtype != dtype or images.ndim != 4 or images.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        raise InputError(f"{name} wants {dtype} images (batch, {wanted}), got {images.dtype} {images.shape}")
