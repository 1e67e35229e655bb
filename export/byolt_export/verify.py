"""Ask a bundle again, on any machine, without torch: does each file still compute what PyTorch computed?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byolt_export.bundle import (
    CONTRACT_KEY,
    PARITY,
    Contract,
    GoldenVectors,
    open_file,
    read_golden,
    read_manifest,
)
from byolt_export.errors import InputError
from byolt_export.parity import GATES, Gates, Images, Outputs, Parity, Verdict, prove, tighten
from byolt_export.runtime import MissingProvider, OnnxRunner


@dataclass(frozen=True)
class FileReport:
    """One file of the bundle, run by one provider."""

    name: str
    precision: str
    provider: str
    parity: Parity

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""
        parity = self.parity.to_json()
        return {"name": self.name, "precision": self.precision, "provider": self.provider} | parity


@dataclass(frozen=True)
class Report:
    """A bundle and the verdict on each of its files: what ``byolt export`` and ``byolt verify`` print."""

    path: Path
    files: tuple[FileReport, ...]

    @property
    def verdict(self) -> Verdict:
        """``failed`` if any file failed; ``passed`` if every file passed somewhere; else ``not run here``."""
        if any(file.parity.verdict == "failed" for file in self.files):
            return "failed"
        passed = {file.name for file in self.files if file.parity.verdict == "passed"}
        return "passed" if passed and passed == {file.name for file in self.files} else "not run here"

    @property
    def reason(self) -> str:
        """Why it did not pass, in one line; empty when it did."""
        found = [f"{f.name} ({f.provider}): {reason}" for f in self.files for reason in f.parity.reasons]
        return "" if self.verdict == "passed" else "; ".join(found)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; the bundle's place is not part of it."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "files": [file.to_json() for file in self.files],
        }


def verify_bundle(
    path: Path, providers: Sequence[str] = ("CPUExecutionProvider",), *, threads: int | None = None
) -> Report:
    """Run every ONNX file of a bundle on its golden images and judge it again.

    A failed parity is a verdict in the report, not an error; a provider that this machine lacks makes ``not run here``.

    Args:
        path: The bundle's folder.
        providers: ONNX Runtime's execution providers to prove it on.
        threads: CPU threads; left out, one a core.

    Raises:
        InputError: The bundle is missing, damaged, or not what its manifest says.
        MissingPart: ONNX Runtime is not installed.
    """
    manifest = read_manifest(path)
    golden = read_golden(path, manifest)
    open_file(path, PARITY, manifest.parity_sha256)
    reports = []
    for file in manifest.files:
        onnx = open_file(path, file.name, file.sha256)
        gates = tighten(GATES[file.precision], file.gates)
        for provider in providers:
            parity = prove_onnx(onnx, provider, manifest.contract, golden, gates=gates, threads=threads)
            reports.append(FileReport(file.name, file.precision, provider, parity))
    return Report(path, tuple(reports))


def prove_onnx(
    path: Path,
    provider: str,
    contract: Contract,
    golden: GoldenVectors,
    *,
    gates: Gates,
    gallery: tuple[Images, Outputs] | None = None,
    threads: int | None = None,
) -> Parity:
    """Judge one ONNX file on one provider; ``not run here`` when the machine lacks the provider.

    Raises:
        InputError: The file is damaged, or its own contract is not the manifest's.
        MissingPart: ONNX Runtime is not installed.
    """
    try:
        run = OnnxRunner(path, provider, threads)
    except MissingProvider as error:
        return Parity("not run here", (str(error),), gates)
    _check_contract(run, contract)
    return prove(
        run,
        golden.images,
        golden.reference,
        golden.controls,
        gates=gates,
        max_batch=contract.input.max_batch,
        logits=contract.output.name == "logits",
        gallery=gallery,
    )


def _check_contract(run: OnnxRunner, contract: Contract) -> None:
    """Classes in another order or another size fool no measure of the outputs: the file itself says what it is."""
    side = contract.input.size_px
    if (
        run.metadata.get(CONTRACT_KEY) != contract.model_dump_json()
        or run.output_name != contract.output.name
        or run.image_shape != (side, side, 3)
    ):
        raise InputError(f"{run.path} was made for another contract than its manifest states: export it again")
