"""Deliver an encoder: ``nn.Module`` to ONNX, to a bundle, to a verdict that can fail. Nothing here imports ``byolt``.

The public API, each loaded when first asked for::

    from byolt_export import Encoder, build_bundle, verify

    report = build_bundle(module, "bundle", images=images, size_px=96)  # report.verdict, report.reason
    verify("bundle")  # on another machine, without torch
    Encoder("bundle")(frames)  # uint8 frames of any size -> (N, D) float32

Packages, each importing only those before it: ``bundle`` (the delivered folder), ``tensorrt`` (engines), ``runtime``
(run a bundle on arrays), ``proof`` (is it the same function?), ``quantize`` and ``onnx`` (make the files), ``bench``
(speed), ``distill`` (INT8 that learns). ``onnx`` and ``distill`` alone import torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from byolt_export.make_bundle import build_bundle
    from byolt_export.options import BundleOptions
    from byolt_export.proof.images import ProofImages
    from byolt_export.proof.verify import verify
    from byolt_export.runtime.encoder import Encoder

# From 1.29 on, ONNX Runtime reports its use to Microsoft and keeps an identifier of the device, unless this is set
# before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__all__ = ["BundleOptions", "Encoder", "ProofImages", "build_bundle", "verify"]

_MODULES = {
    "BundleOptions": "byolt_export.options",
    "Encoder": "byolt_export.runtime.encoder",
    "ProofImages": "byolt_export.proof.images",
    "build_bundle": "byolt_export.make_bundle",
    "verify": "byolt_export.proof.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
