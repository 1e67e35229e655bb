"""What of an earlier bundle in the same folder stays beside the files that are made anew."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from byolt_export.arrays import Outputs
from byolt_export.bundle.folder import (
    FILES,
    GOLDEN,
    INT8_FILES,
    MANIFEST,
    PAGE,
    PARITY,
    open_file,
    read_manifest,
    write_manifest,
)
from byolt_export.bundle.golden import GoldenVectors, read_golden, write_golden
from byolt_export.bundle.manifest import MOST_SPEEDS, Engine, Manifest, Onnx, Precision
from byolt_export.errors import InputError
from byolt_export.files import dump_json, sha256
from byolt_export.proof.drift import own_outputs
from byolt_export.proof.made import Made
from byolt_export.proof.page import write_page
from byolt_export.proof.report import FileReport, Report
from byolt_export.proof.task import Gallery
from byolt_export.proof.verify import judge_export, verify_engines
from byolt_export.quantize.multiply_adds import precision_shares
from byolt_export.runtime.onnx_runner import proven_on

Write = Callable[[Path, Literal["fp32", "fp16"]], None]


@dataclass(frozen=True)
class Judges:
    """What a new bundle's files are judged by, and how its module is written as one of ``FILES``."""

    golden: GoldenVectors
    gallery: Gallery | None
    write: Write
    run: str = ""
    """Name of the run that the encoder is of, for the page that is signed."""


def keep_earlier(old: Path, new: Path, report: Report, judges: Judges, on_log: Callable[[str], None]) -> Report:
    """Copy into a bundle what an earlier one has more, and say in one line each what was kept and what was not.

    An ONNX file is kept where it had passed, is of the same encoder and contract, and passes again by the new bundle's
    golden vectors; an engine where the file that it was built from is in the new bundle, byte for byte.

    Args:
        old: Where the earlier bundle is, if there is one.
        new: The new bundle, whole but for these files.
        report: On its files.
        judges: Of the new bundle.
        on_log: Takes the lines.

    Returns:
        The report with the files that were kept.
    """
    if not (old / MANIFEST).exists():
        return report
    try:
        earlier = read_manifest(old)
    except InputError as error:
        on_log(f"nothing of the earlier bundle is kept: {error}")
        return report
    keeper = _Keeper(old, new, earlier, judges)
    kept = keeper.files()
    report = replace(report, files=tuple(sorted((*report.files, *(judged for _, judged in kept)), key=_place)))
    engines = keeper.engines()
    if kept or engines:
        report = keeper.write(report, [entry for entry, _ in kept], engines)
        names = [*(entry.name for entry, _ in kept), *(engine.name for engine in engines)]
        on_log(f"kept of the earlier bundle, which is of the same encoder: {', '.join(names)}")
    if keeper.lost:
        lost = ", ".join(f"{name} ({why})" for name, why in keeper.lost.items())
        on_log(f"not kept of the earlier bundle: {lost}; --precision and --trt make them again")
    return report


def _place(file: FileReport | Onnx) -> tuple[int, int]:
    """Precisions in their order, and within int8 TensorRT's file, the CPU's and OpenVINO's."""
    names = list(INT8_FILES.values())
    return list(FILES).index(file.precision), names.index(file.name) if file.name in names else 0


def _kind(file: Onnx) -> str:
    """What a file is replaced with: all of its precision, but for OpenVINO's, which is made where asked for alone."""
    return file.name if file.placement == "openvino" else file.precision


class _Keeper:
    """An earlier bundle beside a new one.

    ``lost``: its files that do not stay, and why; ``own``: what int8 files that stay give of the golden images, (N, D).
    """

    def __init__(self, old: Path, new: Path, earlier: Manifest, judges: Judges) -> None:
        self.old, self.new, self.earlier, self.judges = old, new, earlier, judges
        self.manifest = read_manifest(new)
        self.lost: dict[str, str] = {}
        self.own: dict[str, Outputs] = {}
        self.digests = {file.name: file.sha256 for file in self.manifest.files}

    def files(self) -> list[tuple[Onnx, FileReport]]:
        """ONNX files that the new bundle lacks, copied and judged."""
        made = {_kind(file) for file in self.manifest.files}
        absent = [file for file in self.earlier.files if _kind(file) not in made]
        if absent and not self._is_same_encoder():
            self.lost |= {file.name: "of another encoder or contract" for file in absent}
            return []
        found = []
        for file in absent:
            if why := self._why_not(file):
                self.lost[file.name] = why
                continue
            entry, judged = self._judged(file)
            if judged.parity.verdict == "passed":
                found.append((entry, judged))
                self.digests[file.name] = file.sha256
            else:
                self.lost[file.name] = f"it does not pass again: {judged.parity.reasons[0]}"
                (self.new / file.name).unlink()
        return found

    def engines(self) -> list[Engine]:
        """Engines whose ONNX files are in the new bundle, copied."""
        found = []
        for engine in self.earlier.engines:
            if self.digests.get(engine.onnx) != engine.onnx_sha256:
                self.lost[engine.name] = f"built from another {engine.onnx}"
            elif why := self._copy(engine.name, engine.sha256):
                self.lost[engine.name] = why
            else:
                found.append(engine)
        return found

    def write(self, report: Report, kept: Sequence[Onnx], engines: Sequence[Engine]) -> Report:
        """Manifest, measures and page of the bundle with what was kept; the report with the engines, asked anew."""
        (self.new / PARITY).write_bytes(dump_json(report.to_json()))
        files = sorted((*self.manifest.files, *kept), key=_place)
        names = {*(entry.name for entry in kept), *(engine.name for engine in engines)}
        of_kept = tuple(speed for speed in self.earlier.speeds if speed.file in names)
        speeds = (*self.manifest.speeds, *of_kept)[:MOST_SPEEDS]
        changes: dict[str, Any] = {
            "files": tuple(files),
            "speeds": speeds,
            "engines": tuple(engines),
            "parity_sha256": sha256(self.new / PARITY),
        }
        if self.own:
            write_golden(self.new / GOLDEN, replace(self.judges.golden, own=self.own))
            digest = {"sha256": sha256(self.new / GOLDEN)}
            changes["golden"] = self.manifest.golden.model_copy(update=digest)
        write_manifest(self.new, self.manifest.model_copy(update=changes))
        report = replace(report, files=(*report.files, *verify_engines(self.new)))
        write_page(self.new / PAGE, report, read_manifest(self.new), self.judges.golden, Made.here(self.judges.run))
        return report

    def _is_same_encoder(self) -> bool:
        """Whether graph and weights are the same: an ONNX file of either bundle has the same bytes.

        The contract stands in those bytes too. Where both bundles hold no file in common, one is written to compare.
        """
        digests: dict[Precision, str] = {file.precision: file.sha256 for file in self.earlier.files if file.is_made}
        made: dict[Precision, str] = {file.precision: file.sha256 for file in self.manifest.files if file.is_made}
        plain: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")
        for precision in plain:
            if precision in digests and precision in made:
                return digests[precision] == made[precision]
        for precision in plain:
            if precision in digests:
                compared = self.new.with_name(f"compared.{precision}.onnx")
                self.judges.write(compared, precision)
                return digests[precision] == sha256(compared)
        return False  # INT8 alone: its bytes depend on the images it was calibrated on.

    def _why_not(self, file: Onnx) -> str:
        """Why a file of the same encoder does not stay; empty where it does, and then it was copied."""
        if file.verdict != "passed":
            return f"verdict `{file.verdict}`"
        if file.precision == "int8" and not self._are_same_images():
            return "calibrated beside other golden images"  # Which may now be among those it is measured on.
        return self._copy(file.name, file.sha256)

    def _are_same_images(self) -> bool:
        try:
            return np.array_equal(read_golden(self.old, self.earlier).images, self.judges.golden.images)
        except InputError:
            return False

    def _copy(self, name: str, digest: str) -> str:
        """Copy a file after its digest was checked; why it cannot be."""
        try:
            shutil.copyfile(open_file(self.old, name, digest), self.new / name)
        except (InputError, OSError):  # Damaged, or another export has just taken its place.
            return "it is damaged or gone"
        return ""

    def _judged(self, file: Onnx) -> tuple[Onnx, FileReport]:
        import onnx

        path, judges = self.new / file.name, self.judges
        shares = precision_shares(onnx.load(path))
        contract = self.manifest.contract
        own = None
        if file.precision == "int8":
            before = read_golden(self.old, self.earlier).own.get(file.name)
            own = own_outputs(path, judges.golden.images, contract, file.placement, before)
        how = (contract, judges.golden, judges.gallery, file.placement, own)
        parity = judge_export(path, file.precision, shares, *how)
        if own is not None and parity.verdict == "passed":
            self.own[file.name] = own.outputs
        new = {"verdict": parity.verdict, "reason": "; ".join(parity.reasons), "gates": parity.gates.to_json()}
        entry = file.model_copy(update=new | {"shares": shares})
        return entry, FileReport(file.name, file.precision, proven_on(file.placement), parity)
