"""Golden vectors: images, what PyTorch gives for them, and what deliberately wrong models give."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from byolt_export.arrays import Images, Labels, Maps, Outputs
from byolt_export.bundle.folder import GOLDEN, MANIFEST, open_file
from byolt_export.bundle.image_input import Input
from byolt_export.bundle.manifest import Manifest, Output
from byolt_export.errors import InputError, quoted

# Noise on the largest kernel, as a share of its standard deviation.
PERTURBATIONS = {
    "perturbed_kernel": 0.05,
    "perturbed_kernel_10": 0.1,
    "perturbed_kernel_20": 0.2,
    "perturbed_kernel_40": 0.4,
    "perturbed_kernel_80": 0.8,
}
_MAP_BYTES = 64 * 2**20  # Most that maps may take in a bundle; their pooled vectors travel of every image.
CONTROLS = ("swapped_channels", "no_normalisation", *PERTURBATIONS, "reinitialised", "shuffled_rows")


@dataclass(frozen=True)
class GoldenVectors:
    """Images (N, H, W, C), outputs (N, D) of PyTorch and of wrong models (``None``: no meaning here), labels (N,).

    Of features these outputs are the pooled maps; ``maps`` are the maps themselves, of the first images alone. ``own``:
    what int8 files gave when they were made, (N, D) each by the file's name.
    """

    images: Images
    reference: Outputs
    controls: Mapping[str, Outputs | None]
    labels: Labels | None = None
    maps: Maps = field(default_factory=dict)
    own: Mapping[str, Outputs] = field(default_factory=dict)


def count_with_maps(output: Output, images: int) -> int:
    """Of how many of the golden images the maps travel: as many as fit, and one at least."""
    values = sum(math.prod(features.shape) for features in output.maps)
    return max(1, min(images, _MAP_BYTES // (4 * values))) if values else 0


def write_golden(path: Path, golden: GoldenVectors) -> None:
    """Write golden vectors as safetensors; the same vectors give the same bytes."""
    tensors: dict[str, npt.NDArray[Any]] = {"images": golden.images, "outputs.reference": golden.reference}
    tensors |= {f"outputs.control.{name}": wrong for name, wrong in golden.controls.items() if wrong is not None}
    tensors |= {f"maps.{name}": values for name, values in golden.maps.items()}
    tensors |= {f"outputs.file.{name}": outputs for name, outputs in golden.own.items()}
    if golden.labels is not None:
        tensors["labels"] = golden.labels
    path.write_bytes(save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}))


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
    expected: dict[str, tuple[str, tuple[int, ...]]] = {"images": (manifest.contract.input.dtype, (count, *shape))}
    expected["outputs.reference"] = ("float32", (count, dim))
    expected |= {f"outputs.control.{name}": ("float32", (count, dim)) for name in CONTROLS if name not in absent}
    int8 = [file.name for file in manifest.files if file.precision == "int8"]
    own = {f"outputs.file.{name}": name for name in int8 if f"outputs.file.{name}" in tensors}
    expected |= dict.fromkeys(own, ("float32", (count, dim)))
    output = manifest.contract.output
    shown = count_with_maps(output, count)
    expected |= {f"maps.{features.name}": ("float32", (shown, *features.shape)) for features in output.maps}
    if "labels" in tensors:
        expected["labels"] = ("int64", (count,))
    if {name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()} != expected:
        raise InputError(f"{path} does not hold the tensors that {MANIFEST} describes: export it again")
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise InputError(f"{path} holds outputs that are not finite: export it again")
    controls = {name: tensors.get(f"outputs.control.{name}") for name in CONTROLS}
    maps = {name: tensors[f"maps.{name}"] for name in output.names if output.maps}
    given = {name: tensors[key] for key, name in own.items()}
    return GoldenVectors(tensors["images"], tensors["outputs.reference"], controls, tensors.get("labels"), maps, given)


def not_applicable(images: Images, contract: Input) -> set[str]:
    """The wrong models that are no different for this data: known from the data, never from their outputs."""
    absent = set()
    if images.ndim == 4 and images.shape[-1] and np.array_equal(images[..., 0], images[..., -1]):
        absent.add("swapped_channels")  # Grey images stay what they are.
    if contract.mean == (0.0, 0.0, 0.0) and contract.std == (1.0, 1.0, 1.0):
        absent.add("no_normalisation")
    return absent
