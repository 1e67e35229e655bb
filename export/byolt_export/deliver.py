"""A module in, a proven bundle out: export, compare, write at one stroke.

Axes: B batch, N images, H W pixels, D output features.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from byolt_export import bundle
from byolt_export.errors import InputError
from byolt_export.parity import GATES, Images
from byolt_export.runtime import runtime_version
from byolt_export.verify import FileReport, Report, prove_onnx

if TYPE_CHECKING:
    from torch import nn

Rgb = Sequence[float]


def build_bundle(
    module: "nn.Module",
    out_dir: Path,
    *,
    golden_images: Images,
    golden_kind: Literal["dataset", "synthetic"],
    image_size_px: int,
    resize: Literal["crop", "squash"],
    mean: Rgb,
    std: Rgb,
    max_batch: int,
    recipe_hash: str,
    classes: Sequence[str] = (),
    normalize: bool = False,
    labels: npt.NDArray[np.int64] | None = None,
    gallery_images: Images | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Report:
    """Export a module, prove the file against the module, and write both as a bundle, at one stroke.

    When parity fails, the bundle is written all the same, to be looked into: its manifest then says ``failed``, and
    the caller ends with a ``ParityFault``. Any error leaves what was at ``out_dir`` before.

    Args:
        module: Maps normalised images (B, 3, H, W) to an embedding, or with ``classes`` to logits.
        out_dir: The bundle's folder; an earlier bundle there is replaced.
        golden_images: Real images, uint8 (N, H, W, 3), N >= 8, which travel in the bundle.
        golden_kind: Whether these are the user's own.
        image_size_px: Side H = W of the images.
        resize: How an image of another shape becomes that square before it comes in.
        mean: Channel means taken off, for pixels in 0 to 1.
        std: Channel standard deviations divided by, for pixels in 0 to 1.
        max_batch: Largest batch, stated and proven.
        recipe_hash: Which run this is.
        classes: Names of the logits, in order.
        normalize: Divide the embedding by its norm inside the graph.
        labels: Classes of the golden images, (N,).
        gallery_images: Up to 10,000 more images in no order, to look for neighbours among; they do not travel.
        metadata: Further properties of the ONNX file.

    Raises:
        InputError: Images, classes and module do not fit one another, or the module cannot be exported.
        MissingPart: onnx, onnxscript or onnxruntime is not installed.
    """
    from byolt_export import graph  # Brings torch, which only this function needs.

    _check_images(golden_images, image_size_px, "golden images")
    if len(golden_images) < 8 or (labels is not None and len(labels) != len(golden_images)):
        raise InputError(f"{len(golden_images)} golden images: at least 8 are needed, with a label each or none")
    how: dict[str, Any] = {"mean": mean, "std": std, "normalize": normalize}
    reference = graph.torch_outputs(module, golden_images, **how)
    contract = _contract(image_size_px, resize, max_batch, recipe_hash, classes, dim=reference.shape[1], **how)
    controls = graph.wrong_outputs(module, golden_images, reference, **how)
    absent = bundle.not_applicable(golden_images, contract.input)
    golden = bundle.GoldenVectors(
        golden_images, reference, {name: None if name in absent else wrong for name, wrong in controls.items()}, labels
    )
    gallery = None
    if gallery_images is not None:
        _check_images(gallery_images, image_size_px, "gallery images")
        gallery = gallery_images, graph.torch_outputs(module, gallery_images, **how)
    if not all(np.isfinite(outputs).all() for outputs in (reference, *controls.values())):
        raise InputError(f"{type(module).__name__} gives outputs that are not finite: nothing can be proven of it")

    with bundle.staged(out_dir) as folder:
        path = folder / bundle.ENCODER
        graph.export_onnx(
            module,
            path,
            image_size_px=image_size_px,
            max_batch=max_batch,
            output_name=contract.output.name,
            metadata={**(metadata or {}), bundle.CONTRACT_KEY: contract.model_dump_json()},
            **how,
        )
        parity = prove_onnx(path, "CPUExecutionProvider", contract, golden, gates=GATES["fp32"], gallery=gallery)
        report = Report(out_dir, (FileReport(path.name, "fp32", "CPUExecutionProvider", parity),))
        _write_bundle(folder, contract, golden, golden_kind, report, graph.OPSET)
    return report


def _check_images(images: Images, size_px: int, what: str) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size_px, size_px, 3):
        raise InputError(f"{what} must be uint8 (N, {size_px}, {size_px}, 3), got {images.dtype} {images.shape}")


def _contract(
    size_px: int,
    resize: Literal["crop", "squash"],
    max_batch: int,
    recipe_hash: str,
    classes: Sequence[str],
    *,
    dim: int,
    mean: Rgb,
    std: Rgb,
    normalize: bool,
) -> bundle.Contract:
    try:
        return bundle.Contract(
            input=bundle.Input(
                size_px=size_px, resize=resize, max_batch=max_batch, mean=_triple(mean), std=_triple(std)
            ),
            output=bundle.Output(name="logits" if classes else "embedding", dim=dim, normalized=normalize),
            classes=tuple(classes),
            recipe_hash=recipe_hash,
        )
    except ValidationError as error:
        raise InputError(f"export: {bundle.first_fault(error)}") from error


def _triple(values: Rgb) -> bundle.Rgb:
    red, green, blue = map(float, values)
    return red, green, blue


def _write_bundle(
    folder: Path,
    contract: bundle.Contract,
    golden: bundle.GoldenVectors,
    kind: Literal["dataset", "synthetic"],
    report: Report,
    opset: int,
) -> None:
    """Everything but the ONNX file, which lies there already; the manifest comes last and holds all digests."""
    bundle.write_golden(folder / bundle.GOLDEN, golden)
    (folder / bundle.PARITY).write_bytes(bundle.dump_json(report.to_json()))
    files = tuple(
        bundle.Onnx(
            name=file.name,
            precision="fp32",
            opset=opset,
            sha256=bundle.sha256(folder / file.name),
            verdict=file.parity.verdict,
            reason="; ".join(file.parity.reasons),
            gates=asdict(file.parity.gates),
        )
        for file in report.files
    )
    tools = {name: version(name) for name in ("numpy", "onnx", "onnxscript", "torch")}
    manifest = bundle.Manifest(
        contract=contract,
        files=files,
        golden=bundle.Golden(kind=kind, images=len(golden.images), sha256=bundle.sha256(folder / bundle.GOLDEN)),
        parity_sha256=bundle.sha256(folder / bundle.PARITY),
        tools=tools | {"onnxruntime": runtime_version(), "python": platform.python_version()},
    )
    bundle.write_manifest(folder, manifest)
