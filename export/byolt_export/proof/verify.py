"""Ask a bundle again, on any machine, without torch: does each file still compute what PyTorch computed?"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from byolt_export.arrays import Function
from byolt_export.bundle.folder import PARITY, open_file, read_manifest, write_manifest
from byolt_export.bundle.golden import GoldenVectors, read_golden
from byolt_export.bundle.manifest import Contract, Engine, Gates, Manifest, Placement, Precision, precision_fault
from byolt_export.errors import EngineFault, InputError, MissingPart, quoted
from byolt_export.proof.gates import GATES, tighten
from byolt_export.proof.parity import batch_sizes, control_faults, judge_maps, prove
from byolt_export.proof.report import FileReport, Parity, Report
from byolt_export.proof.task import Gallery
from byolt_export.runtime.onnx_runner import CPU, open_onnx, usable_providers
from byolt_export.tensorrt.runner import open_engine

# INT8 has no tolerance of its own: what this file showed here, with room for another backend's order of summation.
_MEAN_ROOM, _WORST_ROOM = 1.5, 2.0
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
    golden = read_golden(path, manifest)
    open_file(path, PARITY, manifest.parity_sha256)
    reports = []
    for file in manifest.files:
        gates = tighten(GATES[file.precision], file.gates)
        stated = precision_fault(file.precision, file.shares, file.placement)
        # It failed by more images, perhaps, than those that travel.
        made = f"failed when it was made ({quoted(file.reason, _LONGEST_REASON)})" if file.verdict == "failed" else ""
        if not file.is_made:
            reports.append(FileReport(file.name, file.precision, CPU, Parity("failed", (made,), gates)))
            continue
        onnx = open_file(path, file.name, file.sha256)
        for provider in providers or usable_providers():
            how = {"threads": threads, "placement": file.placement}
            parity = prove_onnx(onnx, provider, manifest.contract, golden, gates=gates, **how)
            reports.append(FileReport(file.name, file.precision, provider, _failed_by(parity, made, stated)))
    return Report(path, (*reports, *prove_engines(path, manifest, golden)))


def prove_onnx(
    path: Path,
    provider: str,
    contract: Contract,
    golden: GoldenVectors,
    *,
    gates: Gates,
    gallery: Gallery | None = None,
    threads: int | None = None,
    placement: Placement | None = None,
) -> Parity:
    """Judge one ONNX file on one provider; ``not run here`` when the machine lacks the provider.

    Raises:
        InputError: The file is damaged, or its own contract is not the manifest's.
    """
    try:
        run = open_onnx(path, contract, provider, threads, placement)
    except MissingPart as error:
        return Parity("not run here", (str(error),), gates)
    return judge_maps(_prove(run, contract, golden, gates, gallery), run.maps, golden, contract.input.opt_batch)


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
    placement: Placement | None = None,
) -> Parity:
    """The verdict by the built-in gates; INT8's distances are then tightened to what was measured, and judged.

    ``shares`` are those of ``precision_shares``.
    """
    how = (path, CPU, contract, golden)
    parity = prove_onnx(*how, gates=GATES[precision], gallery=gallery, placement=placement)
    parity = _failed_by(parity, precision_fault(precision, shares, placement))
    if precision != "int8" or parity.golden is None:
        return parity
    measured = [measures for measures in (parity.golden, parity.gallery) if measures is not None]
    gates = tighten(
        parity.gates,
        {
            "relative_l2_mean_max": _MEAN_ROOM * max(measures.relative_l2_mean for measures in measured),
            "relative_l2_worst_max": _WORST_ROOM
            * max(
                *(measures.relative_l2_worst for measures in measured),
                *(check.relative_l2_worst for check in parity.maps),
                0.0,
            ),
        },
    )
    again = prove_onnx(*how, gates=gates, placement=placement)
    loose = control_faults(parity.controls)  # Wrong models are noticed, or not, by the limits that are delivered.
    kept = (reason for reason in parity.reasons if reason not in loose)
    reasons = tuple(dict.fromkeys((*kept, *again.reasons)))
    return replace(
        again, verdict="failed" if reasons else "passed", reasons=reasons, gallery=parity.gallery, task=parity.task
    )


def prove_engines(path: Path, manifest: Manifest, golden: GoldenVectors) -> tuple[FileReport, ...]:
    """Judge every engine of a bundle; ``not run here`` where this machine cannot run it.

    Raises:
        InputError: An engine is missing or damaged, or was built from another ONNX file.
    """
    return tuple(_prove_engine(path, manifest, golden, engine) for engine in manifest.engines)


def _prove_engine(path: Path, manifest: Manifest, golden: GoldenVectors, engine: Engine) -> FileReport:
    open_file(path, engine.name, engine.sha256)
    source = next((file for file in manifest.files if file.name == engine.onnx), None)
    if source is None or (source.sha256, source.precision) != (engine.onnx_sha256, engine.precision):
        raise InputError(f"{path / engine.name} was built from another {engine.onnx}: byolt build-engine {path}")
    gates = tighten(GATES[engine.precision], source.gates)

    def judged(parity: Parity) -> FileReport:
        return FileReport(engine.name, engine.precision, f"{engine.flavour} {engine.version}", parity)

    try:
        runner = open_engine(path, engine)
    except MissingPart as error:
        return judged(Parity("not run here", (str(error),), gates))
    except EngineFault as error:
        return judged(Parity("failed", (str(error),), gates))
    with closing(runner):
        return judged(_prove(runner, manifest.contract, golden, gates, None))


def _prove(run: Function, contract: Contract, golden: GoldenVectors, gates: Gates, gallery: Gallery | None) -> Parity:
    return prove(
        run,
        golden,
        gates=gates,
        batches=batch_sizes(contract.input.opt_batch, contract.input.max_batch),
        logits=contract.output.name == "logits",
        gallery=gallery,
    )


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
