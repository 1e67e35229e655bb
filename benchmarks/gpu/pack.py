"""The folder that travels to a machine without a network: the images, packages that are missing there, the commit."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.settings import CHECKOUT

COMMIT, WHEELS, IMAGES = "COMMIT", "wheels", "images"
WITH_THEIR_NEEDS = (
    "pydantic",
    "ruamel.yaml",
)  # pydantic asks for one version of its core, and a new typing_extensions.
ALONE = ("lightly", "lightly_utils", "beartype")  # Of lightly's needs its loop imports none that is missing.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


class Carried(NamedTuple):
    """What a packed folder holds."""

    data: Path
    wheels: Path
    commit: str | None


def pack(folder: Path, data: Path, python: str) -> None:
    """Write the folder.

    Args:
        folder: New, or packed before.
        data: An archive of CIFAR-10's images.
        python: Version of the Python where the GPU is, whose wheels these are.
    """
    (folder / WHEELS).mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob(f"{IMAGES}.*"), *folder.glob(f"{WHEELS}/*.whl")):
        old.unlink()
    shutil.copyfile(data, folder / f"{IMAGES}{''.join(data.suffixes[-2:])}")
    (folder / COMMIT).write_text(commit_of_checkout() + "\n", encoding="utf-8")
    for words in (WITH_THEIR_NEEDS, ("--no-deps", *ALONE)):
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
                *("--dest", str(folder / WHEELS), "--only-binary=:all:", "--implementation", "cp"),
                *("--python-version", python, *(word for name in PLATFORMS for word in ("--platform", name))),
                *words,
            ],
            check=True,
        )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB, commit {(folder / COMMIT).read_text().strip()}")


def commit_of_checkout() -> str:
    """The commit, marked where files differ from it."""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def carried(folder: Path) -> Carried:
    """What ``pack`` wrote."""
    images = sorted(folder.glob(f"{IMAGES}.*"))
    if not images:
        sys.exit(f"--carried: {folder} holds no {IMAGES}.*; make it with --pack")
    commit = folder / COMMIT
    return Carried(images[0], folder / WHEELS, commit.read_text().strip() if commit.exists() else None)
