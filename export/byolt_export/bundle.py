"""The delivered folder: what its manifest says, how it is written at one stroke, how it is read in doubt.

- ``manifest.json``: the contract (input, output, classes); each file with precision, SHA-256 and verdict
- ``encoder.onnx``: raw uint8 images in, embedding or logits out
- ``golden.safetensors``: images, the PyTorch model's outputs, and those of deliberately wrong models
- ``parity.json``: what was measured when the bundle was made
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load, save

from byolt_export.errors import InputError
from byolt_export.parity import CONTROLS, Gates, Images, Outputs, Verdict

MANIFEST, ENCODER, GOLDEN, PARITY = "manifest.json", "encoder.onnx", "golden.safetensors", "parity.json"
CONTRACT_KEY = "byolt.contract"  # Where an ONNX file repeats the manifest's contract in its metadata_props.

# A bundle is somebody else's file: nothing larger than this is read, and nothing larger is run in one batch.
_JSON_BYTES, _FILE_BYTES, _BATCH_BYTES = 4 * 2**20, 2 * 2**30, 2**30

OnnxName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,90}\.onnx$")]  # No way out of the folder.
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Rgb = tuple[float, float, float]


class _Part(BaseModel):
    """Strict and closed: a manifest is read from anywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Input(_Part):
    """What goes in. ``mean`` and ``std`` (pixels in 0 to 1) are told for the record: the graph applies them."""

    name: Literal["images"] = "images"
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"
    colour_order: Literal["RGB"] = "RGB"
    size_px: Annotated[int, Field(ge=1, le=4096)]
    resize: Literal["crop", "squash"]
    max_batch: Annotated[int, Field(ge=1, le=65536)]
    mean: Rgb
    std: Rgb

    @model_validator(mode="after")
    def _batch_is_bounded(self) -> "Input":
        if self.max_batch * self.size_px**2 * 3 > _BATCH_BYTES:
            raise ValueError(f"max_batch {self.max_batch} of {self.size_px} px images is more than 1 GiB")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")
        return self


class Output(_Part):
    """What comes out, (B, dim) float32; ``normalized``: divided by its Euclidean norm."""

    name: Literal["embedding", "logits"]
    dim: PositiveInt
    normalized: bool


class Contract(_Part):
    """What the device has to know. It stands in the manifest and, as JSON, inside each ONNX file."""

    input: Input
    output: Output
    classes: tuple[str, ...]
    recipe_hash: str

    @model_validator(mode="after")
    def _classes_are_logits(self) -> "Contract":
        if (self.output.name == "logits") != bool(self.classes):
            raise ValueError("classes go with logits, and logits need them")
        if self.classes and len(self.classes) != self.output.dim:
            raise ValueError(f"{len(self.classes)} classes for {self.output.dim} logits")
        return self


class Onnx(_Part):
    """A delivered ONNX file, with the verdict of the machine that made it."""

    name: OnnxName
    precision: Literal["fp32", "fp16"]
    opset: PositiveInt
    sha256: Sha256
    verdict: Verdict
    reason: str
    gates: dict[str, float]

    @model_validator(mode="after")
    def _gates_are_known(self) -> "Onnx":
        if unknown := set(self.gates) - {field.name for field in fields(Gates)}:
            raise ValueError(f"gates {sorted(unknown)} are not known")
        return self


class Golden(_Part):
    """``kind`` says whether images of the user's travel in the bundle."""

    kind: Literal["dataset", "synthetic"]
    images: PositiveInt
    sha256: Sha256


class Manifest(_Part):
    """All of ``manifest.json``."""

    schema_version: Literal[1] = 1
    contract: Contract
    files: Annotated[tuple[Onnx, ...], Field(min_length=1, max_length=64)]
    golden: Golden
    parity_sha256: Sha256
    tools: dict[str, str]


@dataclass(frozen=True)
class GoldenVectors:
    """Images (N, H, W, 3), outputs (N, D) of PyTorch and of wrong models (``None``: no meaning here), labels (N,)."""

    images: Images
    reference: Outputs
    controls: Mapping[str, Outputs | None]
    labels: npt.NDArray[np.int64] | None = None


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
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} holds no bundle: {MANIFEST} is missing; make one with `byolt export`")
    content = _read(folder / MANIFEST, _JSON_BYTES)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"{folder / MANIFEST} does not fit: {first_fault(error)}; export it again") from error
    if len({file.name for file in manifest.files}) != len(manifest.files):
        raise InputError(f"{folder / MANIFEST} does not fit: files: a name stands twice; export it again")
    return manifest


def first_fault(error: ValidationError) -> str:
    """One fault of a contract or manifest, as ``where: what``."""
    # Another schema version explains every other fault.
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["loc"] != ("schema_version",))
    where = ".".join(map(str, faults[0]["loc"])) or "the file"
    return f"{where}: {faults[0]['msg'].removeprefix('Value error, ')}"


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
        raise InputError(f"{path} cannot be read as safetensors: {error}; export it again") from error
    count, size, dim = manifest.golden.images, manifest.contract.input.size_px, manifest.contract.output.dim
    absent = not_applicable(tensors["images"], manifest.contract.input) if "images" in tensors else set()
    expected: dict[str, tuple[str, tuple[int, ...]]] = {"images": ("uint8", (count, size, size, 3))}
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
    if images.ndim == 4 and np.array_equal(images[..., 0], images[..., -1]):
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
