"""A delivered ONNX file as a function, whichever runtime computes it."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt_export.arrays import Images, as_bytes, check_batch, pooled
from byolt_export.errors import ByoltError


class GraphRunner(ABC):
    """An ONNX file of a bundle, as a function from images (B, H, W, C) to float32 outputs (B, D).

    A runtime opens the file, says what it takes and gives, and computes.
    """

    path: Path
    image_shape: tuple[int, ...]
    dtype: str
    outputs: dict[str, tuple[Any, ...]]

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        """Outputs (B, D) of images (B, H, W, C); of feature maps, the pooled maps in a row.

        Raises: as ``maps``.
        """
        return pooled(self.maps(images))

    def maps(self, images: Images) -> dict[str, npt.NDArray[np.float32]]:
        """Every output of images (B, H, W, C) by its name, as it comes out.

        Raises:
            InputError: The images have another type or size than the file was made for.
            ByoltError: The runtime cannot run this batch.
        """
        check_batch(images, self.image_shape, self.path.name, self.dtype)
        try:
            values = self._run(as_bytes(images))
        except Exception as error:  # The runtimes' errors share no base class of their own.
            raise ByoltError(f"{self.path.name} does not run a batch of {len(images)}: {self._brief(error)}") from error
        for outputs in values:
            if len(outputs) != len(images):
                raise ByoltError(f"{self.path.name} gave {len(outputs)} rows for a batch of {len(images)}")
        return dict(zip(self.outputs, values, strict=True))

    @abstractmethod
    def _run(self, images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """Every output, in the order of ``outputs``."""

    @staticmethod
    @abstractmethod
    def _brief(error: Exception) -> str:
        """What the runtime's error says, as part of a sentence."""
