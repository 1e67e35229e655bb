"""What this machine has, as facts: installed packages, the CUDA driver and its GPUs. Nothing here imports torch."""

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
from byolt_export.cuda import Gpu, find_gpus

PACKAGES = (
    *("torch", "torchvision", "timm", "albumentations", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"),
    *(
        "openvino",
        "tensorboard",
        "tensorrt",
        "tensorrt-cu13",
        "tensorrt-cu12",
        "tensorrt-cu13-bindings",
        "tensorrt-cu12-bindings",
    ),
    *("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"),
    *("tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu12-libs"),
)


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

    def first(self, *names: str) -> str:
        """The first of these distributions that is installed; empty for none."""
        return next((name for name in names if name in self.packages), "")

    def installed(self, *names: str) -> str:
        """Those of these distributions that are installed, with their versions."""
        return ", ".join(f"{name} {self.packages[name]}" for name in names if name in self.packages)


def survey() -> MachineFacts:
    """Look at this machine; takes well under a second."""
    packages = {name: version for name in PACKAGES if (version := package_version(name))}
    driver, gpus = find_gpus()
    torch_requires = metadata.requires("torch") if "torch" in packages else None
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
        torch_cuda=torch_cuda(packages.get("torch", ""), torch_requires or []),
        **_onnxruntime(),
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


def _onnxruntime() -> dict[str, Any]:
    """What is to be known of ONNX Runtime, or why it does not import."""
    from byolt_export.runtime.onnx_runner import usable_providers

    try:
        import onnxruntime
        from onnxruntime.capi import build_and_package_info as build
    except (ImportError, OSError) as error:
        return {"onnxruntime_fault": (str(error).splitlines() or [type(error).__name__])[0]}
    major = re.match(r"\d+", str(getattr(build, "cuda_version", "")))
    return {
        "onnxruntime_cuda": int(major[0]) if major else None,
        "built_providers": tuple(onnxruntime.get_available_providers()),
        "usable_providers": usable_providers(),
    }
