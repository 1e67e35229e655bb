"""The delivered folder: how it is written at one stroke, how it is read in doubt.

- ``manifest.json``: the contract (input, output, classes); each file with precision, SHA-256 and verdict: `manifest.py`
- ``encoder.onnx``, ``encoder.fp16.onnx``, ``encoder.int8.onnx``: raw uint8 images in, embedding or logits out
- ``encoder.<precision>.<target>.engine``: plain TensorRT plans of the same
- ``golden.safetensors``: images, the PyTorch model's outputs, and those of deliberately wrong models
- ``parity.json``, ``parity.html``: what was measured when the bundle was made
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from byolt_export.errors import InputError, quoted
from byolt_export.manifest import Input, Manifest, first_fault
from byolt_export.measures import Images, Labels, Outputs
from byolt_export.parity import CONTROLS

MANIFEST, GOLDEN, PARITY, PAGE = "manifest.json", "golden.safetensors", "parity.json", "parity.html"
FILES = {"fp32": "encoder.onnx", "fp16": "encoder.fp16.onnx", "int8": "encoder.int8.onnx"}

_JSON_BYTES, _FILE_BYTES = 4 * 2**20, 2 * 2**30  # A bundle is somebody else's file: nothing larger is read.


@dataclass(frozen=True)
class GoldenVectors:
    """Images (N, H, W, 3), outputs (N, D) of PyTorch and of wrong models (``None``: no meaning here), labels (N,)."""

    images: Images
    reference: Outputs
    controls: Mapping[str, Outputs | None]
    labels: Labels | None = None


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def dump_json(content: Any) -> bytes:
    """JSON whose bytes depend on the content alone."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to write a bundle into, which takes its place when the block ends without an error.

    An error leaves what was there before, and nothing else. An earlier bundle is moved away first, since POSIX does
    not replace a folder that holds files: for a moment between two renames there is none.

    Raises:
        InputError: ``folder`` exists and is not a bundle.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder.is_dir() and ((folder / MANIFEST).exists() or not any(folder.iterdir()))):
        raise InputError(f"{folder} exists and is not a bundle: name another folder to export to")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()  # Not the temporary folder itself, which is closed to other users.
        yield new
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_golden(path: Path, golden: GoldenVectors) -> None:
    """Write golden vectors as safetensors; the same vectors give the same bytes."""
    tensors: dict[str, npt.NDArray[Any]] = {"images": golden.images, "outputs.reference": golden.reference}
    tensors |= {f"outputs.control.{name}": wrong for name, wrong in golden.controls.items() if wrong is not None}
    if golden.labels is not None:
        tensors["labels"] = golden.labels
    path.write_bytes(save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, the last file of a bundle."""
    (folder / MANIFEST).write_bytes(dump_json(manifest.model_dump(mode="json")))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, every field checked.

    Raises:
        InputError: There is no bundle, or its manifest is damaged, hostile, or of another version.
    """
    if (folder / MANIFEST).is_symlink() or not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} holds no bundle: {MANIFEST} is missing; make one with `byolt export`")
    content = _read(folder / MANIFEST, _JSON_BYTES)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"{folder / MANIFEST} does not fit: {first_fault(error)}; export it again") from error
    names = [*(file.name for file in manifest.files), *(engine.name for engine in manifest.engines)]
    if len(set(names)) != len(names):
        raise InputError(f"{folder / MANIFEST} does not fit: files: a name stands twice; export it again")
    return manifest


def open_file(folder: Path, name: str, digest: str) -> Path:
    """The path of a file of the bundle, after its size and its digest were checked.

    Raises:
        InputError: The file is missing, leads out of the bundle, is too large, or is not what the manifest says.
    """
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path} is missing from the bundle: copy the whole folder again")
    if path.stat().st_size > _FILE_BYTES:
        raise InputError(f"{path} is larger than a bundle's files may be (2 GiB): export it again")
    if sha256(path) != digest:
        raise InputError(f"{path} is not the file that {MANIFEST} names (SHA-256): copy the bundle again")
    return path


def read_golden(folder: Path, manifest: Manifest) -> GoldenVectors:
    """The golden vectors of a bundle, checked against the manifest.

    Raises:
        InputError: The file is missing or damaged, or its tensors do not fit the manifest.
    """
    path = open_file(folder, GOLDEN, manifest.golden.sha256)
    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {quoted(str(error))}; export it again") from error
    count, shape, dim = manifest.golden.images, manifest.contract.input.shape, manifest.contract.output.dim
    absent = not_applicable(tensors["images"], manifest.contract.input) if "images" in tensors else set()
    expected: dict[str, tuple[str, tuple[int, ...]]] = {"images": ("uint8", (count, *shape))}
    expected["outputs.reference"] = ("float32", (count, dim))
    expected |= {f"outputs.control.{name}": ("float32", (count, dim)) for name in CONTROLS if name not in absent}
    if "labels" in tensors:
        expected["labels"] = ("int64", (count,))
    if {name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()} != expected:
        raise InputError(f"{path} does not hold the tensors that {MANIFEST} describes: export it again")
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise InputError(f"{path} holds outputs that are not finite: export it again")
    controls = {name: tensors.get(f"outputs.control.{name}") for name in CONTROLS}
    return GoldenVectors(tensors["images"], tensors["outputs.reference"], controls, tensors.get("labels"))


def not_applicable(images: Images, contract: Input) -> set[str]:
    """The wrong models that are no different for this data: known from the data, never from their outputs."""
    absent = set()
    if images.ndim == 4 and images.shape[-1] == 3 and np.array_equal(images[..., 0], images[..., -1]):
        absent.add("swapped_channels")  # Grey images stay what they are.
    if contract.mean == (0.0, 0.0, 0.0) and contract.std == (1.0, 1.0, 1.0):
        absent.add("no_normalisation")
    return absent


def _read(path: Path, limit: int) -> bytes:
    """At most ``limit`` bytes of a file: its size is not to be trusted either."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error
    if len(content) > limit:
        raise InputError(f"{path} is larger than a manifest may be ({limit // 2**20} MiB): export it again")
    return content
