"""Ask a bundle again, on any machine, without torch: does each file still compute what PyTorch computed?"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from byolt_export.bundle.folder import open_file, read_manifest, write_manifest
from byolt_export.bundle.golden import GoldenVectors, read_golden
from byolt_export.bundle.manifest import Contract, Engine, Gates, Manifest, Onnx, Precision, precision_fault
from byolt_export.errors import EngineFault, InputError, MissingPart, quoted
from byolt_export.proof.gates import GATES, gates_of_file, golden_gates, tighten
from byolt_export.proof.parity import batch_sizes, judge, prove, run_file
from byolt_export.proof.report import FileReport, Parity, Report, read_gates
from byolt_export.proof.task import Gallery
from byolt_export.runtime.onnx_runner import CPU, open_onnx, usable_providers
from byolt_export.tensorrt.runner import open_engine

_LONGEST_REASON = 2000  # Characters of somebody else's manifest that are repeated.


def verify(bundle: str | Path, providers: Sequence[str] = ()) -> Report:
    """Prove a bundle on this machine, and write the verdicts of engines that ran here into its manifest.

    See ``verify_bundle``, which writes nothing, for arguments and errors.
    """
    report = verify_bundle(Path(bundle), providers)
    record_verdicts(Path(bundle), report.files)
    return report


def verify_engines(path: str | Path) -> tuple[FileReport, ...]:
    """Prove the engines of a bundle alone, and write the verdicts of those that ran here into its manifest.

    Raises:
        InputError: The bundle or an engine is missing or damaged.
    """
    path = Path(path)
    manifest = read_manifest(path)
    reports = prove_engines(path, manifest, read_golden(path, manifest))
    record_verdicts(path, reports)
    return reports


def verify_bundle(path: str | Path, providers: Sequence[str] = (), *, threads: int | None = None) -> Report:
    """Run every file of a bundle on its golden images and judge it again.

    A failed parity is a verdict in the report, not an error; what this machine cannot run is ``not run here``.

    Args:
        path: The bundle's folder.
        providers: ONNX Runtime's execution providers to prove it on; left out, those that this machine can use.
        threads: CPU threads; left out, one per core.

    Raises:
        InputError: The bundle is missing, damaged, or not what its manifest says.
    """
    path = Path(path)
    manifest = read_manifest(path)
    golden, stored = read_golden(path, manifest), read_gates(path, manifest)
    reports = []
    for file in manifest.files:
        gates, stated = _gates(file, manifest, stored), precision_fault(file.precision, file.shares)
        # It failed by more images, perhaps, than those that travel.
        made = f"failed when it was made ({quoted(file.reason, _LONGEST_REASON)})" if file.verdict == "failed" else ""
        if not file.is_made:
            reports.append(FileReport(file.name, file.precision, CPU, Parity("failed", (made,), gates)))
            continue
        onnx = open_file(path, file.name, file.sha256)
        for provider in providers or usable_providers():
            parity = prove_onnx(onnx, provider, manifest.contract, golden, gates=gates, threads=threads)
            reports.append(FileReport(file.name, file.precision, provider, _failed_by(parity, made, stated)))
    return Report(path, (*reports, *prove_engines(path, manifest, golden)))


def prove_onnx(
    path: Path,
    provider: str,
    contract: Contract,
    golden: GoldenVectors,
    *,
    gates: Gates,
    threads: int | None = None,
) -> Parity:
    """Judge one ONNX file on one provider; ``not run here`` when the machine lacks the provider.

    Raises:
        InputError: The file is damaged, or its own contract is not the manifest's.
    """
    try:
        run = open_onnx(path, contract, provider, threads)
    except MissingPart as error:
        return Parity("not run here", (str(error),), gates)
    ran = run_file(run, golden, _batches(contract), maps_of=run.maps)
    return judge(ran, golden, gates=gates, logits=_are_logits(contract))


def _gates(file: Onnx, manifest: Manifest, stored: Mapping[str, Mapping[str, float]]) -> Gates:
    """The strictest of the built-in gates, the manifest's, and those that it was judged by when it was made.

    Of the last the manifest holds the digest alone: whoever loosens those in the manifest gains nothing.
    """
    gates = golden_gates(file.precision, manifest.golden.images)
    return tighten(tighten(gates, file.gates), stored[file.name])


def _failed_by(parity: Parity, *reasons: str) -> Parity:
    """The same with reasons that no run gives, those that are empty left out: any of them fails it."""
    told = tuple(reason for reason in reasons if reason)
    return replace(parity, verdict="failed", reasons=(*told, *parity.reasons)) if told else parity


def judge_export(
    path: Path,
    precision: Precision,
    shares: Mapping[Precision, float],
    contract: Contract,
    golden: GoldenVectors,
    gallery: Gallery | None,
) -> Parity:
    """The verdict by the outer gates, and by the tightened ones that are delivered: it has to keep both.

    ``shares`` are those of ``precision_shares``.

    Raises:
        InputError: The file is damaged, or its own contract is not the one given.
    """
    run, logits = open_onnx(path, contract, CPU), _are_logits(contract)
    ran = run_file(run, golden, _batches(contract), gallery, run.maps)
    # Wrong models are noticed, or not, by the gates that are delivered.
    outer = judge(ran, replace(golden, controls={}), gates=GATES[precision], logits=logits, gallery=gallery)
    stated = precision_fault(precision, shares)
    if outer.golden is None:
        return _failed_by(outer, stated)
    measured = [measures for measures in (outer.golden, outer.gallery) if measures is not None]
    worst_of_maps = (check.relative_l2_worst for check in outer.maps)
    gates = gates_of_file(precision, measured, worst_of_maps, len(golden.images))
    delivered = judge(ran, golden, gates=gates, logits=logits)
    judged = replace(
        delivered,
        verdict="failed" if outer.reasons else delivered.verdict,
        reasons=outer.reasons or delivered.reasons,
        gallery=outer.gallery,
        task=outer.task,
        agreement=outer.agreement,
    )
    return _failed_by(judged, stated)


def prove_engines(path: Path, manifest: Manifest, golden: GoldenVectors) -> tuple[FileReport, ...]:
    """Judge every engine of a bundle; ``not run here`` where this machine cannot run it.

    Raises:
        InputError: An engine is missing or damaged, or was built from another ONNX file.
    """
    stored = read_gates(path, manifest)
    return tuple(_prove_engine(path, manifest, golden, engine, stored) for engine in manifest.engines)


def _prove_engine(
    path: Path,
    manifest: Manifest,
    golden: GoldenVectors,
    engine: Engine,
    stored: Mapping[str, Mapping[str, float]],
) -> FileReport:
    open_file(path, engine.name, engine.sha256)
    source = next((file for file in manifest.files if file.name == engine.onnx), None)
    if source is None or source.sha256 != engine.onnx_sha256 or source.precision != engine.precision:
        raise InputError(f"{path / engine.name} was built from another {engine.onnx}: byolt build-engine {path}")
    gates, contract = _gates(source, manifest, stored), manifest.contract

    def judged(parity: Parity) -> FileReport:
        return FileReport(engine.name, engine.precision, f"{engine.flavour} {engine.version}", parity)

    try:
        runner = open_engine(path, engine)
    except MissingPart as error:
        return judged(Parity("not run here", (str(error),), gates))
    except EngineFault as error:
        return judged(Parity("failed", (str(error),), gates))
    with closing(runner):
        return judged(prove(runner, golden, gates=gates, batches=_batches(contract), logits=_are_logits(contract)))


def _batches(contract: Contract) -> tuple[int, ...]:
    return batch_sizes(contract.input.opt_batch, contract.input.max_batch)


def _are_logits(contract: Contract) -> bool:
    return contract.output.name == "logits"


def record_verdicts(path: Path, reports: Sequence[FileReport]) -> None:
    """Write into the manifest the verdicts of engines that ran here, so that the runtime on this device may open them.

    An engine runs on one kind of GPU and one version of TensorRT alone, so its verdict holds wherever it loads.
    """
    manifest = read_manifest(path)
    ran = {f.name: f for f in reports if f.is_engine and f.parity.verdict != "not run here"}
    engines = tuple(
        engine.model_copy(
            update={
                "verdict": ran[engine.name].parity.verdict,
                "reason": "; ".join(ran[engine.name].parity.reasons) or f"ran by {ran[engine.name].provider}",
            }
        )
        if engine.name in ran
        else engine
        for engine in manifest.engines
    )
    if engines != manifest.engines:
        write_manifest(path, manifest.model_copy(update={"engines": engines}))
