"""Ask a bundle again, on any machine, without torch: does each file still compute what PyTorch computed?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from byolt_export.bisect import Bisection
from byolt_export.bundle import PARITY, GoldenVectors, open_file, read_golden, read_manifest
from byolt_export.contents import precision_fault
from byolt_export.engine_runner import open_engine
from byolt_export.errors import EngineFault, InputError, MissingPart
from byolt_export.manifest import CONTRACT_KEY, Contract, Engine, Manifest
from byolt_export.measures import Crowd
from byolt_export.parity import GATES, Gates, Parity, Run, Verdict, batch_sizes, prove, tighten
from byolt_export.runtime import OnnxRunner, usable_providers


@dataclass(frozen=True)
class FileReport:
    """One file of the bundle, run by one provider of ONNX Runtime or by TensorRT."""

    name: str
    precision: str
    provider: str
    parity: Parity
    bisection: Bisection | None = None

    @property
    def is_engine(self) -> bool:
        """A TensorRT plan, not an ONNX file."""
        return self.name.endswith(".engine")

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""
        about = {"name": self.name, "precision": self.precision, "provider": self.provider}
        found = {} if self.bisection is None else {"bisection": asdict(self.bisection)}
        return about | self.parity.to_json() | found


@dataclass(frozen=True)
class Report:
    """A bundle and the verdict on each of its files: what ``byolt export`` and ``byolt verify`` print."""

    path: Path
    files: tuple[FileReport, ...]

    @property
    def verdict(self) -> Verdict:
        """``failed`` if any file failed; ``passed`` if something passed and nothing failed; else ``not run here``.

        What could not run here keeps its own ``not run here``: engines where there is no GPU, ONNX files on a device
        that has no ONNX Runtime and proves its engines.
        """
        if any(file.parity.verdict == "failed" for file in self.files):
            return "failed"
        return "passed" if self.passed else "not run here"

    @property
    def passed(self) -> set[str]:
        """Names of the files that passed somewhere."""
        return {file.name for file in self.files if file.parity.verdict == "passed"}

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


def verify_bundle(path: Path, providers: Sequence[str] = (), *, threads: int | None = None) -> Report:
    """Run every file of a bundle on its golden images and judge it again.

    A failed parity is a verdict in the report, not an error; what this machine cannot run is ``not run here``.

    Args:
        path: The bundle's folder.
        providers: ONNX Runtime's execution providers to prove it on; left out, those that this machine can use.
        threads: CPU threads; left out, one a core.

    Raises:
        InputError: The bundle is missing, damaged, or not what its manifest says.
    """
    manifest = read_manifest(path)
    golden = read_golden(path, manifest)
    open_file(path, PARITY, manifest.parity_sha256)
    reports = []
    for file in manifest.files:
        onnx = open_file(path, file.name, file.sha256)
        gates = tighten(GATES[file.precision], file.gates)
        for provider in providers or usable_providers():
            parity = prove_onnx(onnx, file.precision, provider, manifest.contract, golden, gates=gates, threads=threads)
            if file.verdict == "failed":  # By more images, perhaps, than those that travel.
                parity = replace(
                    parity, verdict="failed", reasons=(f"failed when it was made ({file.reason})", *parity.reasons)
                )
            reports.append(FileReport(file.name, file.precision, provider, parity))
    return Report(path, (*reports, *prove_engines(path, manifest, golden)))


def prove_onnx(
    path: Path,
    precision: str,
    provider: str,
    contract: Contract,
    golden: GoldenVectors,
    *,
    gates: Gates,
    crowd: Crowd | None = None,
    threads: int | None = None,
) -> Parity:
    """Judge one ONNX file on one provider; ``not run here`` when the machine lacks the provider.

    Raises:
        InputError: The file is damaged, or its own contract is not the manifest's.
    """
    fault = precision_fault(path, precision)
    try:
        run = OnnxRunner(path, provider, threads)
    except MissingPart as error:
        return Parity("not run here", (str(error),), gates)
    check_contract(run, contract)
    return _prove(run, contract, golden, gates, crowd, fault)


def prove_engines(path: Path, manifest: Manifest, golden: GoldenVectors) -> tuple[FileReport, ...]:
    """Judge every engine of a bundle; ``not run here`` where this machine cannot run it.

    Raises:
        InputError: An engine is missing or damaged, or was built from another ONNX file.
    """
    return tuple(_prove_engine(path, manifest, golden, engine) for engine in manifest.engines)


def _prove_engine(path: Path, manifest: Manifest, golden: GoldenVectors, engine: Engine) -> FileReport:
    open_file(path, engine.name, engine.sha256)
    source = next((file for file in manifest.files if file.name == engine.onnx), None)
    if source is None or source.sha256 != engine.onnx_sha256 or source.precision != engine.precision:
        raise InputError(f"{path / engine.name} was built from another {engine.onnx}: byolt build-engine {path}")
    gates = tighten(GATES[engine.precision], source.gates)

    def told(parity: Parity) -> FileReport:
        return FileReport(engine.name, engine.precision, f"{engine.flavour} {engine.version}", parity)

    try:
        runner = open_engine(path, engine)
    except MissingPart as error:
        return told(Parity("not run here", (str(error),), gates))
    except EngineFault as error:
        return told(Parity("failed", (str(error),), gates))
    with runner:
        return told(_prove(runner, manifest.contract, golden, gates, None, ""))


def _prove(
    run: Run, contract: Contract, golden: GoldenVectors, gates: Gates, crowd: Crowd | None, fault: str
) -> Parity:
    return prove(
        run,
        golden.images,
        golden.reference,
        golden.controls,
        gates=gates,
        batches=batch_sizes(contract.input.opt_batch, contract.input.max_batch),
        logits=contract.output.name == "logits",
        crowd=crowd,
        precision_fault=fault,
    )


def check_contract(run: OnnxRunner, contract: Contract) -> None:
    """Classes in another order or another size fool no measure of the outputs: the file itself says what it is.

    Raises:
        InputError: The file was made for another contract.
    """
    if (
        run.metadata.get(CONTRACT_KEY) != contract.model_dump_json()
        or run.output_name != contract.output.name
        or run.image_shape != contract.input.shape
    ):
        raise InputError(f"{run.path} was made for another contract than its manifest states: export it again")
