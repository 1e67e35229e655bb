"""Ask a bundle again, on any machine, without torch: does each file still compute what PyTorch computed?"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from byolt_export.arrays import Function, Outputs
from byolt_export.bundle.folder import GOLDEN, open_file, read_manifest, write_manifest
from byolt_export.bundle.golden import GoldenVectors, read_golden
from byolt_export.bundle.manifest import (
    MOST_SPEEDS,
    Contract,
    Engine,
    Gates,
    Manifest,
    Onnx,
    Placement,
    Precision,
    Speed,
    precision_fault,
)
from byolt_export.errors import ByoltError, EngineFault, InputError, MissingPart, quoted
from byolt_export.proof.drift import Own
from byolt_export.proof.gates import gates_of_file, golden_gates, outer_gates, tighten
from byolt_export.proof.parity import batch_sizes, judge, prove, run_file
from byolt_export.proof.report import FileReport, Parity, Report, read_gates
from byolt_export.proof.speed import time_files
from byolt_export.proof.task import Gallery
from byolt_export.runtime.onnx_runner import CPU, open_onnx, proven_on, usable_providers
from byolt_export.runtime.openvino_runner import OPENVINO
from byolt_export.tensorrt.runner import open_engine

_LONGEST_REASON = 2000  # Characters of somebody else's manifest that are repeated.


def verify(
    bundle: str | Path,
    providers: Sequence[str] = (),
    *,
    threads: int | None = None,
    on_log: Callable[[str], None] = lambda _: None,
) -> Report:
    """Prove a bundle on this machine; write the verdicts of engines that ran here, and speeds, into its manifest.

    Args:
        bundle: The bundle's folder.
        providers: As ``verify_bundle`` takes them.
        threads: CPU threads of one call; left out, one per core.
        on_log: Takes a line where the speeds cannot be kept.

    Raises: as ``verify_bundle``.
    """
    path = Path(bundle)
    report = verify_bundle(path, providers, threads=threads)
    report = replace(report, files=_timed(path, report.files, threads))
    record_verdicts(path, report.files)
    if any(file.speeds for file in report.files):
        _record_speeds(path, report.files, on_log)
    return report


def _timed(path: Path, reports: Sequence[FileReport], threads: int | None) -> tuple[FileReport, ...]:
    manifest = read_manifest(path)
    engines = {engine.name: engine for engine in manifest.engines}
    placements = {file.name: file.placement for file in manifest.files}

    def open_run(file: FileReport) -> Function:
        if file.is_engine:
            return open_engine(path, engines[file.name])
        return open_onnx(path / file.name, manifest.contract, file.provider, threads, placements[file.name])

    images, opt_batch = read_golden(path, manifest).images, manifest.contract.input.opt_batch
    return time_files(reports, open_run, images, opt_batch=opt_batch, threads=threads)


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
        providers: ONNX Runtime's execution providers to prove it on, and ``OPENVINO``; left out, those of ONNX Runtime
            that this machine can use. A file that is placed for OpenVINO runs there, and one for a CPU on no GPU.
        threads: CPU threads; left out, one per core.

    Raises:
        InputError: The bundle is missing, damaged, or not what its manifest says.
    """
    path = Path(path)
    manifest = read_manifest(path)
    golden, stored = read_golden(path, manifest), read_gates(path, manifest)
    reports = []
    for file in manifest.files:
        gates = _gates(file, manifest, stored)
        stated = precision_fault(file.precision, file.shares, file.placement)
        # It failed by more images, perhaps, than those that travel.
        made = f"failed when it was made ({quoted(file.reason, _LONGEST_REASON)})" if file.verdict == "failed" else ""
        if not file.is_made:
            parity = Parity("failed", (made,), gates)
            reports.append(FileReport(file.name, file.precision, proven_on(file.placement), parity))
            continue
        onnx = open_file(path, file.name, file.sha256)
        if math.isfinite(gates.drift_mean_max) and file.name not in golden.own:
            raise InputError(f"{path / GOLDEN} does not hold what {file.name} gave when it was made: export it again")
        for provider in _providers_of(file, providers or usable_providers()):
            # Only where the same runtime works on the same kind of processor is the same arithmetic to be expected.
            own = golden.own.get(file.name) if provider == proven_on(file.placement) else None
            how = (onnx, provider, manifest.contract, golden)
            parity = prove_onnx(*how, gates=gates, threads=threads, placement=file.placement, own=own)
            reports.append(FileReport(file.name, file.precision, provider, _failed_by(parity, made, stated)))
    return Report(path, (*reports, *prove_engines(path, manifest, golden)))


def _providers_of(file: Onnx, asked: Sequence[str]) -> Sequence[str]:
    """Those of the providers that a file is for: its Q/DQ may be placed for one of them alone."""
    if file.placement == "openvino":
        return (OPENVINO,)
    on_cpu = [provider for provider in asked if provider in (CPU, OPENVINO)]
    return on_cpu or (CPU,) if file.placement == "cpu" else asked


def prove_onnx(
    path: Path,
    provider: str,
    contract: Contract,
    golden: GoldenVectors,
    *,
    gates: Gates,
    threads: int | None = None,
    placement: Placement | None = None,
    own: Outputs | None = None,
) -> Parity:
    """Judge one ONNX file on one provider; ``not run here`` when the machine lacks the provider.

    ``own`` is what the file gave when it was made, (N, D); left out, that is not asked.

    Raises:
        InputError: The file is damaged, or its own contract is not the manifest's.
    """
    try:
        run = open_onnx(path, contract, provider, threads, placement)
    except MissingPart as error:
        return Parity("not run here", (str(error),), gates)
    ran = run_file(run, golden, _batches(contract), maps_of=run.maps)
    return judge(ran, golden, gates=gates, logits=_are_logits(contract), own=own)


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
    placement: Placement | None = None,
    own: Own | None = None,
) -> Parity:
    """The verdict by the outer gates, and by the tightened ones that are delivered: it has to keep both.

    ``shares`` are those of ``precision_shares``, ``own`` that of ``own_outputs``.

    Raises:
        InputError: The file is damaged, or its own contract is not the one given.
    """
    run = open_onnx(path, contract, proven_on(placement), placement=placement)
    logits = _are_logits(contract)
    ran = run_file(run, golden, _batches(contract), gallery, run.maps)
    # Wrong models are noticed, or not, by the gates that are delivered.
    images = len(golden.images) + (0 if gallery is None else len(gallery.images))
    gates = outer_gates(precision, images)
    outer = judge(ran, replace(golden, controls={}), gates=gates, logits=logits, gallery=gallery)
    stated = precision_fault(precision, shares, placement)
    if outer.golden is None:
        return _failed_by(outer, stated)
    measured = [measures for measures in (outer.golden, outer.gallery) if measures is not None]
    worst_of_maps = (check.relative_l2_worst for check in outer.maps)
    reordered = None if own is None else own.reordered_mean
    gates = gates_of_file(precision, measured, worst_of_maps, len(golden.images), reordered)
    delivered = judge(ran, golden, gates=gates, logits=logits, own=None if own is None else own.outputs)
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
    if source is None or (source.sha256, source.precision) != (engine.onnx_sha256, engine.precision):
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


def _record_speeds(path: Path, reports: Sequence[FileReport], on_log: Callable[[str], None]) -> None:
    """Write speeds into the manifest, in place of those of the same runtime, processor and threads."""
    manifest = read_manifest(path)
    if manifest.schema_version < 3:
        on_log(f"{path} was made before bundles kept speeds: export it again to have Encoder choose by them")
        return
    measured = tuple(speed for file in reports for speed in file.speeds)
    try:
        write_manifest(path, manifest.model_copy(update={"speeds": merged_speeds(manifest.speeds, measured)}))
    except ByoltError as error:  # A proof needs no write, and a bundle may lie where nothing can be written.
        on_log(f"speeds are not kept: {error}")


def merged_speeds(earlier: Sequence[Speed], measured: Sequence[Speed]) -> tuple[Speed, ...]:
    """What was measured, after those of other machines and threads; of too many the latest."""
    replaced = {(speed.runtime, speed.processor, speed.threads) for speed in measured}
    others = [speed for speed in earlier if (speed.runtime, speed.processor, speed.threads) not in replaced]
    return (*others, *measured)[-MOST_SPEEDS:]
