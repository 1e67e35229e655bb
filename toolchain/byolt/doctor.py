"""What this machine can do, and the line that mends what is missing. Asks package metadata and libcuda, not torch."""

import ctypes
import os
import platform
from typing import Any, NamedTuple

from byolt import __version__
from byolt.run import package_version


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    state: str
    mend: str = ""


_PARTS = {
    "learning": (("torch", "torchvision", "timm", "albumentations"), 'pip install "byolt[train]"'),
    "export": (("onnx", "onnxscript"), 'pip install "byolt[export]"'),
    "TensorBoard": (("tensorboard",), 'pip install "byolt[tensorboard]"'),
}
# A flavour and the distributions that may bring it: the wheels beside the package of the name count as well.
_TENSORRT = {
    "TensorRT (NVIDIA licence; on a Jetson it comes with JetPack)": (
        "tensorrt",
        "tensorrt-cu13-bindings",
        "tensorrt-cu12-bindings",
    ),
    "TensorRT for RTX (NVIDIA licence)": (
        "tensorrt-rtx",
        "tensorrt-rtx-cu13-bindings",
        "tensorrt-rtx-cu12-bindings",
    ),
}


def examine() -> list[Finding]:
    """Every finding, in the order a person reads them."""
    found = [Finding("byolt", f"{__version__}, Python {platform.python_version()}, {os.cpu_count()} cores")]
    found.append(_cuda())
    for part, (packages, mend) in _PARTS.items():
        versions = {name: package_version(name) for name in packages}
        missing = [name for name, version in versions.items() if version is None]
        state = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        found.append(
            Finding(
                part,
                f"{state or 'nothing'}{'; missing ' + ', '.join(missing) if missing else ''}",
                mend if missing else "",
            )
        )
    found.append(_onnxruntime())
    found += _tensorrt()
    return found


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """JSON-able."""
    return {"findings": [finding._asdict() for finding in findings]}


def to_text(findings: list[Finding]) -> str:
    """A line a finding, and under it the line that mends it."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.what:<14} {finding.state}")
        if finding.mend:
            lines.append(f"{'':<14} -> {finding.mend}")
    return "\n".join(lines)


def _cuda() -> Finding:
    """Driver and GPUs through libcuda itself."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Finding("GPU", "no CUDA driver: learning and ONNX Runtime run on the CPU")
    count, version = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return Finding("GPU", "a CUDA driver, but no device answers", "nvidia-smi")
    cuda.cuDriverGetVersion(ctypes.byref(version))
    names = []
    for index in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(96)
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode())
    return Finding("GPU", f"{', '.join(names)}; driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}")


def _onnxruntime() -> Finding:
    names = [name for name in ("onnxruntime-gpu", "onnxruntime") if package_version(name)]
    if not names:
        return Finding("ONNX Runtime", "missing", 'pip install "byolt[export]"')
    import onnxruntime

    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    state = f"{names[0]} {package_version(names[0])}, built with {providers}"
    if len(names) > 1:
        return Finding(
            "ONNX Runtime",
            f"{state}; onnxruntime too, and the two overwrite one another",
            "pip uninstall onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        )
    return Finding("ONNX Runtime", state)


def _tensorrt() -> list[Finding]:
    here = []
    for words, names in _TENSORRT.items():
        version = next((found for name in names if (found := package_version(name))), None)
        if version is not None:
            here.append(Finding("TensorRT", f"{words} {version}"))
    missing = Finding("TensorRT", "missing; needed for engines alone", 'pip install "byolt[trt]" or "byolt[rtx]"')
    return here or [missing]
