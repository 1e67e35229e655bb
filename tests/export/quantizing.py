"""A file in INT8 at one stroke, as a bundle makes it."""

from pathlib import Path

import onnx

from byolt_export.arrays import Images
from byolt_export.bundle.manifest import Calibration
from byolt_export.quantize.calibrate import Rule
from byolt_export.quantize.int8 import Int8


def quantize(
    path: Path,
    int8_path: Path,
    *,
    images: Images,
    source: str = "drawn",
    rule: Rule = "least error",
    least_share: float = 0.8,
) -> Calibration:
    """For TensorRT; what is not INT8 keeps the precision that the file has."""
    int8 = Int8.of(onnx.load(path), images, source, rule)
    return int8.for_tensorrt(int8.calibrated.model, int8_path, least_share=least_share)
