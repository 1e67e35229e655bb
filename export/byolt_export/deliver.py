"""A module in, a proven bundle out: export, quantise, compare, build engines, write at one stroke.

Axes: B batch, N images, H W pixels, D output features.
"""

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ValidationError

from byolt_export import bundle
from byolt_export.bisect import bisect
from byolt_export.contents import read_opset
from byolt_export.errors import InputError
from byolt_export.manifest import (
    CONTRACT_KEY,
    Calibration,
    Contract,
    Golden,
    Input,
    Manifest,
    Onnx,
    Output,
    Precision,
    first_fault,
)
from byolt_export.measures import Crowd, Images, Labels, Outputs
from byolt_export.page import write_page
from byolt_export.parity import GATES, Parity, control_faults, tighten
from byolt_export.runtime import runtime_version
from byolt_export.verify import FileReport, Report, prove_onnx

if TYPE_CHECKING:
    from torch import nn

CPU = "CPUExecutionProvider"
# INT8 has no tolerance of its own: what this file showed here, with room for another backend's order of summation.
_MEAN_ROOM, _WORST_ROOM = 1.5, 2.0
_BISECTED = 16  # Images whose every tensor is kept.


@dataclass(frozen=True)
class Evidence:
    """Images of what comes in, uint8 (N, H, W, 3), that a bundle is made and proven with; no image is in two of them.

    ``golden`` (8 or more) travels in the bundle, and ``golden_kind`` says whether these are the user's own. Neighbours
    are looked for among up to 10,000 of ``gallery``; with labels, ``queries`` measure the task. INT8 scales come from
    ``calibration``, which nothing is measured on.
    """

    golden: Images
    golden_kind: Literal["dataset", "synthetic"]
    golden_labels: Labels | None = None
    gallery: Images | None = None
    gallery_labels: Labels | None = None
    queries: Images | None = None
    query_labels: Labels | None = None
    calibration: Images | None = None
    calibration_source: str = ""


@dataclass(frozen=True)
class _Made:
    """One ONNX file in the staged folder, with how it was judged."""

    precision: Precision
    report: FileReport
    opset: int
    calibration: Calibration | None


def build_bundle(
    module: "nn.Module",
    out_dir: Path,
    *,
    pixels: Input,
    evidence: Evidence,
    recipe_hash: str,
    precisions: Sequence[Precision] = ("fp32",),
    classes: Sequence[str] = (),
    normalize: bool = False,
    metadata: Mapping[str, str] | None = None,
    bisects: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Export a module, prove each file against the module, and write all as a bundle, at one stroke.

    When parity fails, the bundle is written all the same, to be looked into: its manifest then says ``failed``, and
    the caller ends with a ``ParityFault``. Any error leaves what was at ``out_dir`` before.

    Args:
        module: Maps normalised images (B, 3, S, S) to an embedding, or with ``classes`` to logits.
        out_dir: The bundle's folder; an earlier bundle there is replaced.
        pixels: What comes in, and how the graph makes it ready.
        evidence: The images that it is proven on.
        recipe_hash: Which run this is.
        precisions: Files to make: ``fp32``, ``fp16``, ``int8``.
        classes: Names of the logits, in order.
        normalize: Divide the embedding by its norm inside the graph.
        metadata: Further properties of the ONNX files.
        bisects: Compare the tensors on the way too, and name the first node whose error jumps.
        say: Takes one line on what is being done.

    Raises:
        InputError: Images, classes and module do not fit one another, or the module cannot be exported.
        MissingPart: onnx, onnxscript or onnxruntime is not installed.
    """
    from byolt_export import graph  # Brings torch, which only this function needs.

    runtime_version()  # Missing parts are told before the work.
    _check(pixels, evidence, precisions)
    how: dict[str, Any] = {"pixels": pixels, "normalize": normalize}
    say(f"PyTorch's outputs of {len(evidence.golden)} golden images and of wrong models")
    reference = graph.torch_outputs(module, evidence.golden, **how)
    contract = _contract(pixels, recipe_hash, classes, dim=reference.shape[1], normalize=normalize)
    wrong = graph.wrong_outputs(module, evidence.golden, reference, **how)
    if not all(np.isfinite(outputs).all() for outputs in (reference, *wrong.values())):
        raise InputError(f"{type(module).__name__} gives outputs that are not finite: nothing can be proven of it")
    absent = bundle.not_applicable(evidence.golden, pixels)
    controls = {name: None if name in absent else outputs for name, outputs in wrong.items()}
    golden = bundle.GoldenVectors(evidence.golden, reference, controls, evidence.golden_labels)
    crowd = _crowd(evidence, lambda images: graph.torch_outputs(module, images, **how), say)

    with bundle.staged(out_dir) as folder:
        properties = {**(metadata or {}), CONTRACT_KEY: contract.model_dump_json()}
        made = []
        for precision in sorted(set(precisions), key=list(bundle.FILES).index):
            path, calibration = folder / bundle.FILES[precision], None
            say(f"{path.name}: {'quantising' if precision == 'int8' else 'exporting'}")
            if precision == "int8":
                calibration = _quantise(module, path, properties, contract, evidence, how)
            else:
                graph.export_onnx(
                    module, path, output_name=contract.output.name, precision=precision, metadata=properties, **how
                )
            say(f"{path.name}: proving")
            parity = _judge(path, precision, contract, golden, crowd)
            found = None
            if bisects:
                shown = evidence.golden[:_BISECTED]
                layers = graph.torch_layers(module, shown, pixels=pixels)
                found = bisect(path, layers, shown, limit=parity.gates.relative_l2_worst_max)
            made.append(
                _Made(precision, FileReport(path.name, precision, CPU, parity, found), read_opset(path), calibration)
            )
        report = Report(out_dir, tuple(each.report for each in made))
        _write(folder, contract, golden, evidence.golden_kind, made, report)
    return report


def _check(pixels: Input, evidence: Evidence, precisions: Sequence[Precision]) -> None:
    if unknown := [name for name in precisions if name not in bundle.FILES]:
        raise InputError(f"precision {unknown[0]} is not known: ask for {', '.join(bundle.FILES)}")
    for what in ("golden", "gallery", "queries", "calibration"):
        images = getattr(evidence, what)
        if images is not None and (images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != pixels.shape):
            height, width, _ = pixels.shape
            raise InputError(
                f"{what} images must be uint8 (N, {height}, {width}, 3), got {images.dtype} {images.shape}"
            )
    labels = evidence.golden_labels
    if len(evidence.golden) < 8 or (labels is not None and len(labels) != len(evidence.golden)):
        raise InputError(f"{len(evidence.golden)} golden images: at least 8 are needed, with a label each or none")
    if not precisions:
        raise InputError(f"no precision is named: ask for {', '.join(bundle.FILES)}")
    if evidence.calibration is not None:
        calibrated = {image_digest(image) for image in evidence.calibration}
        for what in ("golden", "gallery", "queries"):
            images = getattr(evidence, what)
            if images is not None and not calibrated.isdisjoint(map(image_digest, images)):
                raise InputError(f"an image of the calibration is among the {what} images: measure on others")
    if "int8" in precisions and evidence.calibration is None:
        raise InputError("int8 needs calibration images, which are none of those that it is measured on")


def image_digest(image: Images) -> bytes:
    """By which images that are the same to the last pixel (H, W, 3) are known."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _contract(pixels: Input, recipe_hash: str, classes: Sequence[str], *, dim: int, normalize: bool) -> Contract:
    try:
        return Contract(
            input=pixels,
            output=Output(name="logits" if classes else "embedding", dim=dim, normalized=normalize),
            classes=tuple(classes),
            recipe_hash=recipe_hash,
        )
    except ValidationError as error:
        raise InputError(f"export: {first_fault(error)}") from error


def _crowd(evidence: Evidence, outputs_of: Callable[[Images], Outputs], say: Callable[[str], None]) -> Crowd | None:
    if evidence.gallery is None:
        return None
    labelled = evidence.gallery_labels is not None and evidence.queries is not None
    queries = evidence.queries if labelled else None
    asked = "" if queries is None else f" and {len(queries)} queries"
    say(f"PyTorch's outputs of {len(evidence.gallery)} gallery images{asked}")
    return Crowd(
        evidence.gallery,
        outputs_of(evidence.gallery),
        evidence.gallery_labels,
        queries,
        None if queries is None else outputs_of(queries),
        evidence.query_labels if labelled else None,
    )


def _quantise(
    module: "nn.Module",
    path: Path,
    properties: Mapping[str, str],
    contract: Contract,
    evidence: Evidence,
    how: Mapping[str, Any],
) -> Calibration:
    """Write the INT8 file, made from the fp16 graph: what is not INT8 is FP16."""
    from byolt_export import graph
    from byolt_export.precision import quantise

    half = path.with_name(bundle.FILES["fp16"])
    borrowed = not half.exists()
    if borrowed:
        name = contract.output.name
        graph.export_onnx(module, half, output_name=name, precision="fp16", metadata=properties, **how)
    assert evidence.calibration is not None
    try:
        return quantise(half, path, images=evidence.calibration, source=evidence.calibration_source)
    finally:
        if borrowed:
            half.unlink()


def _judge(path: Path, precision: str, contract: Contract, golden: bundle.GoldenVectors, crowd: Crowd | None) -> Parity:
    """The verdict by the built-in gates; INT8's distances are then tightened to what was measured, and judged again."""
    parity = prove_onnx(path, precision, CPU, contract, golden, gates=GATES[precision], crowd=crowd)
    if precision != "int8" or parity.golden is None:
        return parity
    seen = [measures for measures in (parity.golden, parity.gallery) if measures is not None]
    gates = tighten(
        parity.gates,
        {
            "relative_l2_mean_max": _MEAN_ROOM * max(measures.relative_l2_mean for measures in seen),
            "relative_l2_worst_max": _WORST_ROOM * max(measures.relative_l2_worst for measures in seen),
        },
    )
    again = prove_onnx(path, precision, CPU, contract, golden, gates=gates)
    loose = control_faults(parity.controls)  # Wrong models are noticed, or not, by the limits that are delivered.
    kept = (reason for reason in parity.reasons if reason not in loose)
    reasons = tuple(dict.fromkeys((*kept, *again.reasons)))
    return replace(
        again, verdict="failed" if reasons else "passed", reasons=reasons, gallery=parity.gallery, task=parity.task
    )


def _write(
    folder: Path,
    contract: Contract,
    golden: bundle.GoldenVectors,
    kind: Literal["dataset", "synthetic"],
    made: Sequence[_Made],
    report: Report,
) -> None:
    """Everything but the ONNX files, which lie there already; the manifest holds the digests of all but the page."""
    bundle.write_golden(folder / bundle.GOLDEN, golden)
    (folder / bundle.PARITY).write_bytes(bundle.dump_json(report.to_json()))
    files = tuple(
        Onnx(
            name=each.report.name,
            precision=each.precision,
            opset=each.opset,
            sha256=bundle.sha256(folder / each.report.name),
            verdict=each.report.parity.verdict,
            reason="; ".join(each.report.parity.reasons),
            gates=asdict(each.report.parity.gates),
            calibration=each.calibration,
        )
        for each in made
    )
    tools = {name: version(name) for name in ("numpy", "onnx", "onnxscript", "torch")}
    manifest = Manifest(
        contract=contract,
        files=files,
        golden=Golden(kind=kind, images=len(golden.images), sha256=bundle.sha256(folder / bundle.GOLDEN)),
        parity_sha256=bundle.sha256(folder / bundle.PARITY),
        tools=tools | {"onnxruntime": runtime_version(), "python": platform.python_version()},
    )
    bundle.write_manifest(folder, manifest)
    write_page(folder / bundle.PAGE, report, manifest, golden)
