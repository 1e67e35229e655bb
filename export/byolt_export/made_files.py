"""The ONNX files of a bundle as they were made, or why they could not be, and all that is written around them."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from byolt_export.arrays import Outputs
from byolt_export.bundle.folder import GOLDEN, PAGE, PARITY, file_name, write_manifest
from byolt_export.bundle.golden import GoldenVectors, write_golden
from byolt_export.bundle.manifest import (
    NOT_MADE,
    OPSET,
    Calibration,
    Contract,
    Golden,
    Manifest,
    Onnx,
    Placement,
    Precision,
)
from byolt_export.errors import ByoltError, first_line, quoted
from byolt_export.files import dump_json, sha256
from byolt_export.proof.gates import GATES
from byolt_export.proof.made import Made
from byolt_export.proof.page import write_page
from byolt_export.proof.report import FileReport, Parity, Report
from byolt_export.runtime.onnx_runner import proven_on, runtime_version


@dataclass(frozen=True)
class MadeFile:
    """One ONNX file in the staged folder, with how it was judged."""

    report: FileReport
    opset: int
    shares: dict[Precision, float]
    calibration: Calibration | None
    placement: Placement | None = None
    own: Outputs | None = None
    """Of an int8 file that ran: what it gave of the golden images, (N, D)."""

    @classmethod
    def failed(cls, precision: Precision, error: Exception, placement: Placement | None = None) -> "MadeFile":
        """One that could not be made, with the reason; there is no file."""
        parity = Parity("failed", (reason_of(error),), GATES[precision])
        report = FileReport(file_name(precision, placement), precision, proven_on(placement), parity)
        return cls(report, OPSET, {}, None, placement)


def write_bundle(
    folder: Path,
    made: Sequence[MadeFile],
    report: Report,
    contract: Contract,
    golden: GoldenVectors,
    *,
    kind: Literal["dataset", "synthetic"],
    run: str = "",
) -> None:
    """All but the ONNX files, which lie there already; the manifest holds the digests of all but the page."""
    golden = replace(golden, own={each.report.name: each.own for each in made if each.own is not None})
    write_golden(folder / GOLDEN, golden)
    (folder / PARITY).write_bytes(dump_json(report.to_json()))
    files = tuple(
        Onnx(
            name=each.report.name,
            precision=each.report.precision,
            placement=each.placement,
            opset=each.opset,
            sha256=sha256(path) if (path := folder / each.report.name).exists() else NOT_MADE,
            verdict=each.report.parity.verdict,
            reason="; ".join(each.report.parity.reasons),
            gates=each.report.parity.gates.to_json(),
            calibration=each.calibration,
            shares=each.shares,
        )
        for each in made
    )
    tools = {name: version(name) for name in ("numpy", "onnx", "onnxscript", "torch")}
    count = len(golden.images)
    manifest = Manifest(
        schema_version=3,
        contract=contract,
        files=files,
        golden=Golden(kind=kind, images=count, sha256=sha256(folder / GOLDEN)),
        parity_sha256=sha256(folder / PARITY),
        tools=tools | {"onnxruntime": runtime_version(), "python": platform.python_version()},
        speeds=tuple(speed for each in made for speed in each.report.speeds),
    )
    write_manifest(folder, manifest)
    write_page(folder / PAGE, report, manifest, golden, Made.here(run))


def reason_of(error: Exception) -> str:
    """Why a file could not be made, as part of a sentence."""
    said = quoted(first_line(error))
    return said if isinstance(error, ByoltError) else f"{type(error).__name__}: {said}"
