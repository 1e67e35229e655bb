"""What an int8 file gave when it was made, which it is held against later: faults smaller than its rounding are told.

Axes: N images, D output features.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from byolt_export.arrays import Images, Outputs
from byolt_export.bundle.manifest import Contract, Placement
from byolt_export.errors import ByoltError
from byolt_export.proof.measures import relative_l2
from byolt_export.proof.parity import run_filled
from byolt_export.runtime.onnx_runner import OnnxRunner, open_onnx, proven_on


class Own(NamedTuple):
    """A file's own outputs of the golden images, (N, D), and how far another order of the same sums takes them."""

    outputs: Outputs
    reordered_mean: float
    """Relative L2, mean of the images."""


def own_outputs(
    path: Path, images: Images, contract: Contract, placement: Placement | None, before: Outputs | None = None
) -> Own | None:
    """Run an int8 file twice: as it is run, and in ONNX Runtime with nothing fused, so that floats are multiplied.

    Args:
        path: The file.
        images: The golden images, (N, H, W, C).
        contract: That it was made for.
        placement: The engine that it is placed for.
        before: What it gave when it was made, (N, D), where that is known: it stays what the file is held against.

    Returns:
        ``None`` where it does not run in both ways, or gives what is not finite: another gate fails such a file.
    """
    try:
        runs = open_onnx(path, contract, proven_on(placement), placement=placement), OnnxRunner(path, is_fused=False)
        given, reordered = (run_filled(run, images, contract.input.max_batch)[: len(images)] for run in runs)
    except ByoltError:
        return None
    if not (np.isfinite(given).all() and np.isfinite(reordered).all()):
        return None
    return Own(given if before is None else before, float(relative_l2(given, reordered).mean()))
