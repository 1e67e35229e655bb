"""A TensorRT plan as bytes: who can load it, found without a GPU."""

from pathlib import Path

from byolt_export.errors import InputError
from byolt_export.tensorrt.flavour import Flavour

_PLAN_HEADER = 64
_PLAN_BYTES = 2 * 2**30  # A bundle is somebody else's file: nothing larger is read.


def plan_fault(plan: bytes, flavour: Flavour) -> str:
    """Why the flavour cannot load a plan, from its first bytes; empty when they fit.

    Plans of TensorRT for RTX state their length and version; those of classic TensorRT bear another mark.
    """
    if len(plan) <= _PLAN_HEADER:
        return f"its plan has {len(plan)} bytes"
    ahead = plan[:4] == b"vtrt"
    if flavour.name == "tensorrt":
        return "its plan is one of TensorRT for RTX" if ahead else ""
    if not ahead:
        return "its plan is none of TensorRT for RTX"
    if int.from_bytes(plan[16:24], "little") != len(plan):
        return f"its plan has {len(plan)} bytes and should have {int.from_bytes(plan[16:24], 'little')}"
    if tuple(plan[24:28]) != flavour.release:
        return f"its plan is of version {'.'.join(map(str, plan[24:28]))}, not {flavour.version}"
    return ""


def read_plan(path: Path, flavour: Flavour) -> bytes:
    """The plan's bytes, after its size and its header were checked."""
    try:
        size = path.stat().st_size
        plan = path.read_bytes() if size <= _PLAN_BYTES else b""
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if size > _PLAN_BYTES:
        raise InputError(f"{path} is larger than an engine may be (2 GiB): build it again with `byolt build-engine`")
    if fault := plan_fault(plan, flavour):
        raise InputError(f"{path} is no engine for {flavour}: {fault}; build it with `byolt build-engine`")
    return plan
