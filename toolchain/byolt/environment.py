"""What made a result: byolt, commit, Python, packages, processor."""

import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from byolt import __version__

_PACKAGES = ("torch", "torchvision", "timm", "albumentations", "onnx", "onnxruntime-gpu", "onnxruntime", "numpy")


def environment() -> dict[str, Any]:
    """What made a result: byolt, commit, Python, packages, processor. Never a host or user name."""
    return {
        "byolt": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in _PACKAGES if package_version(name)},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def package_version(name: str) -> str | None:
    """Version of an installed distribution, from its metadata, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """The commit of byolt's own checkout; None for an installed wheel or where git is missing."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").is_file() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
