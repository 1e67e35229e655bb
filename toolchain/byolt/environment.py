"""What made a result: byolt, commit, Python, packages, processor, GPU."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from byolt import __version__

COMMIT_VARIABLE = "BYOLT_COMMIT"
"""Whoever carries a copy without .git elsewhere sets it to the commit that was copied."""
_PACKAGES = ("torch", "torchvision", "timm", "albumentations", "onnx", "onnxruntime-gpu", "onnxruntime", "numpy")


def environment() -> dict[str, Any]:
    """What made a result: byolt, commit, Python, packages, processor, GPU. Never a host or user name."""
    from byolt_export.cuda import find_gpus  # With numpy, which `byolt --help` does without.

    _, gpus = find_gpus()
    return {
        "byolt": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in _PACKAGES if package_version(name)},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": gpus[0].name if gpus else None,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


_typed: list[str] = []


def typed(arguments: list[str]) -> None:
    """Remember what byolt was asked on its command line: what it says to type next is made of that."""
    _typed[:] = arguments


def command(*words: object) -> str:
    """A whole line to paste: byolt as it was started here, then ``words``, each quoted where a shell needs it."""
    return " ".join([_program(), shlex.join(map(str, words))])


def typed_again(*more: object, of: tuple[str, ...], without: str) -> str:
    """The command that was typed as a line to paste, with other words at its end; empty where it was another one.

    Args:
        more: Those words.
        of: Commands that it may be.
        without: An option to leave out, with its value.
    """
    if not set(of) & set(_typed):  # Called from Python, or within another command.
        return ""
    kept: list[str] = []
    words = iter(_typed)
    for word in words:
        if word == without:
            next(words, None)
        elif not word.startswith(f"{without}="):
            kept.append(word)
    return command(*kept, *more)


def _program() -> str:
    """``byolt`` where a shell finds this one by that name, else its path as it was typed."""
    started = Path(sys.argv[0])
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return f"torchrun --nproc-per-node={os.environ.get('LOCAL_WORLD_SIZE', '1')} -m byolt"
    if started.name == "__main__.py" and started.parent.name == "byolt":
        found = shutil.which("python")
        same = found is not None and Path(found).samefile(sys.executable)
        return f"{'python' if same else shlex.quote(sys.executable)} -m byolt"
    found = shutil.which("byolt")
    if started.name != "byolt" or not started.exists() or (found is not None and Path(found).samefile(started)):
        return "byolt"
    return shlex.quote(sys.argv[0])


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
    """The commit of byolt's own checkout; where there is none, or no git, what ``BYOLT_COMMIT`` says, or None."""
    checkout = Path(__file__).resolve().parents[2]
    said = os.environ.get(COMMIT_VARIABLE) or None
    # Of this very checkout: a copy without .git may lie in the repository of another project.
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return said
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or said
