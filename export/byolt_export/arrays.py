"""Types of the arrays that every package here passes on.

Axes: N images, H W pixels, D output features.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

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
