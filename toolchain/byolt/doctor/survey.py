"""What this machine has, as facts: installed packages, the CUDA driver and its GPUs. Nothing here imports torch."""

import ctypes
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from byolt import __version__
from byolt.environment import package_version

PACKAGES = (
    *("torch", "torchvision", "timm", "albumentations", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"),
    *("tensorboard", "tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
    *("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"),
    *("tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu12-libs"),
)
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver finds; ``capability`` is its compute capability, 86 for 8.6."""

    name: str
    capability: int


@dataclass(frozen=True)
class MachineFacts:
    """Facts that the doctor judges; versions as in the packages' metadata, releases as (major, minor)."""

    byolt: str
    python: str
    system: str
    cores: int
    jetson: bool = False
    packages: Mapping[str, str] = field(default_factory=dict)
    """Installed distributions and their versions, of those in ``PACKAGES``."""
    licences: Mapping[str, str] = field(default_factory=dict)
    driver_cuda: tuple[int, int] | None = None
    """The latest CUDA that the driver serves; ``None`` without a driver."""
    gpus: tuple[Gpu, ...] = ()
    torch_cuda: int | None = None
    """The CUDA major version that torch was built for; ``None`` when it is not known, or built for the CPU."""
    onnxruntime_cuda: int | None = None
    built_providers: tuple[str, ...] = ()
    usable_providers: tuple[str, ...] = ()
    onnxruntime_fault: str = ""
    """Why an installed ONNX Runtime does not import."""

    def version(self, *names: str) -> str | None:
        """The version of the first of these distributions that is installed."""
        return next((self.packages[name] for name in names if name in self.packages), None)


def survey() -> MachineFacts:
    """Look at this machine; takes well under a second."""
    packages = {name: version for name in PACKAGES if (version := package_version(name))}
    driver, gpus = _cuda()
    installed = bool(packages.keys() & {"onnxruntime", "onnxruntime-gpu"})
    built, usable, cuda, fault = _onnxruntime() if installed else ((), (), None, "")
    return MachineFacts(
        byolt=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count() or 1,
        jetson=Path("/etc/nv_tegra_release").exists(),
        packages=packages,
        licences={name: licence for name in packages if (licence := _licence(name))},
        driver_cuda=driver,
        gpus=gpus,
        torch_cuda=torch_cuda(packages.get("torch", ""), _requirements("torch")),
        onnxruntime_cuda=cuda,
        built_providers=built,
        usable_providers=usable,
        onnxruntime_fault=fault,
    )


def torch_cuda(version: str, requirements: list[str]) -> int | None:
    """The CUDA major version of a torch build: from ``2.9.0+cu126``, else from the CUDA packages that it requires."""
    local = version.partition("+")[2]
    if local:
        found = re.fullmatch(r"cu(\d+)\d", local)
        return int(found[1]) if found else None
    named = [re.match(r"nvidia-[a-z-]+-cu(\d+)\b", requirement) for requirement in requirements]
    return next((int(match[1]) for match in named if match), None)


def _licence(name: str) -> str | None:
    about = metadata.metadata(name)
    said = [about[key].strip() for key in ("License-Expression", "License") if key in about]
    return next((words.splitlines()[0] for words in said if words), None)


def _requirements(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def _onnxruntime() -> tuple[tuple[str, ...], tuple[str, ...], int | None, str]:
    """Providers built in, providers usable, CUDA major version of the build, and why it does not import."""
    from byolt_export.runtime.onnx_runner import usable_providers

    try:
        import onnxruntime
        from onnxruntime.capi import build_and_package_info as build
    except (ImportError, OSError) as error:
        return (), (), None, (str(error).splitlines() or [type(error).__name__])[0]
    major = re.match(r"\d+", str(getattr(build, "cuda_version", "")))
    return tuple(onnxruntime.get_available_providers()), usable_providers(), int(major[0]) if major else None, ""


def _cuda() -> tuple[tuple[int, int] | None, tuple[Gpu, ...]]:
    """What the driver says of itself and of each GPU, through libcuda itself."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, ()
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        count.value = 0
    release = version.value // 1000, version.value % 1000 // 10
    return release, tuple(_gpu(cuda, index) for index in range(count.value))


def _gpu(cuda: Any, index: int) -> Gpu:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(96)
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return Gpu(name.value.decode(errors="replace"), 10 * major.value + minor.value)
