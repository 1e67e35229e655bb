"""Engines of TensorRT for RTX for the tests, and which machine these run on."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.export import graphs

from byolt_export.bundle.manifest import Engine, Onnx, Precision, Profile
from byolt_export.cuda import MissingGpu, find_gpu
from byolt_export.files import sha256
from byolt_export.tensorrt.build_engine import build_engines
from byolt_export.tensorrt.flavour import Flavour, Target, choose_flavour

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has no wheel for this machine")


RTX = choose_flavour("tensorrt_rtx")


CLASSIC = Flavour("tensorrt", trt.__version__, trt)


PROFILE = Profile(min_batch=1, opt_batch=4, max_batch=10)


INT8 = pytest.mark.skipif(RTX.release < (1, 7), reason="INT8 needs TensorRT for RTX 1.7")


AMPERE = Target("rtx30", (86,))


ORIN = Target("here", (87,), "Orin")


def has_gpu() -> bool:
    try:
        find_gpu("the test looks for one")
    except MissingGpu:
        return False
    return True


NO_GPU = pytest.mark.skipif(has_gpu(), reason="shows what a machine without a GPU says")


def write(
    folder: Path, model: onnx.ModelProto, precision: str = "fp32", shares: dict[Precision, float] | None = None
) -> Onnx:
    name = "encoder.onnx" if precision == "fp32" else f"encoder.{precision}.onnx"
    (folder / name).write_bytes(model.SerializeToString())
    return Onnx(
        name=name,
        precision=precision,
        opset=19,
        sha256=sha256(folder / name),
        verdict="passed",
        reason="",
        gates={},
        shares=shares or {precision: 1.0},
    )


def build(folder: Path, model: onnx.ModelProto | None = None, precision: str = "fp32", **changes: Any) -> Engine:
    shares = changes.pop("shares", None)
    file = write(folder, graphs.encoder(precision) if model is None else model, precision, shares)
    how: dict[str, Any] = {"flavour": RTX, "targets": [AMPERE]} | changes
    (entry,) = build_engines(folder, [file], PROFILE, **how)
    return entry
