"""The fp32 file of a bundle quantised by ONNX Runtime's or NNCF's own tools, with their defaults; needs no byolt.

    python benchmarks/int8_peers.py quantize_static|nncf FP32.onnx CALIBRATION.npy INT8.onnx

Run by int8_networks.py in an environment with onnx, onnxruntime, sympy and nncf. CALIBRATION.npy holds images as they
go into the file, uint8 (N, H, W, 3), of which NNCF takes the 300 of its default.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx


def by_onnxruntime(fp32: Path, images: np.ndarray, int8: Path) -> None:
    """``quantize_static`` after the pre-processing that its documentation asks for."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(images[:, None])

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image}

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(fp32, ready)
        quantize_static(ready, int8, Reader())


def by_nncf(fp32: Path, images: np.ndarray, int8: Path) -> None:
    """``nncf.quantize`` of the ONNX model."""
    import nncf

    dataset = nncf.Dataset([{"images": image} for image in images[:300, None]])
    onnx.save(nncf.quantize(onnx.load(fp32), dataset), int8)


def main() -> None:
    """Quantise one file."""
    by, fp32, calibration, int8 = sys.argv[1:]
    quantise = {"quantize_static": by_onnxruntime, "nncf": by_nncf}[by]
    quantise(Path(fp32), np.load(calibration)[:512], Path(int8))


if __name__ == "__main__":
    main()
