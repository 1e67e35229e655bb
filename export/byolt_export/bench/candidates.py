"""What a bundle brings to the bench: its files on this machine's backends, each with its accuracy."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from byolt_export.arrays import Function, Images, Outputs
from byolt_export.bench.run import Accuracy, Candidate
from byolt_export.bundle.folder import read_manifest
from byolt_export.bundle.golden import read_golden
from byolt_export.bundle.manifest import Engine, Manifest, Onnx
from byolt_export.errors import InputError, ParityFault
from byolt_export.proof.report import FileReport, Measures, Task, read_report
from byolt_export.proof.verify import verify_bundle
from byolt_export.runtime.onnx_runner import CPU, OnnxRunner
from byolt_export.runtime.openvino_runner import OPENVINO, OpenVinoRunner
from byolt_export.tensorrt.runner import open_engine

BATCHES = (1, 8, 32)


class BenchSetup(NamedTuple):
    """A proven bundle's candidates, and what they are timed on."""

    manifest: Manifest
    images: Images
    reference: Outputs
    candidates: list[Candidate]
    baseline: str
    """The fp32 file in ONNX Runtime on the CPU; the first file where there is none of fp32."""


def bundle_candidates(path: Path, *, providers: Sequence[str] = (), threads: int | None = None) -> BenchSetup:
    """Prove a bundle on this machine, and make a candidate of each file on each provider, and of each engine.

    Args:
        path: The bundle's folder.
        providers: ONNX Runtime's execution providers and ``OPENVINO``; left out, ONNX Runtime's that run here.
        threads: CPU threads of one call; left out, one per core.

    Raises:
        InputError: The bundle is missing or damaged.
        ParityFault: A file failed, here or where it was made: the speed of wrong outputs says nothing.
    """
    manifest = read_manifest(path)
    listed: tuple[Onnx | Engine, ...] = (*manifest.files, *manifest.engines)
    for entry in listed:
        if entry.verdict == "failed":
            raise _refused(path, entry.name, f"failed when it was made ({entry.reason})")
    report = verify_bundle(path, providers, threads=threads)
    for judged in report.files:
        if judged.parity.verdict == "failed":
            raise _refused(path, judged.name, f"fails here ({'; '.join(judged.parity.reasons)})")
    known = {(judged.name, judged.provider): judged for judged in read_report(path, manifest).files}
    candidates = [
        _candidate(path, manifest, file, known.get((file.name, file.provider)), threads) for file in report.files
    ]
    golden = read_golden(path, manifest)
    first = next((f for f in report.files if f.precision == "fp32" and f.provider == CPU), report.files[0])
    return BenchSetup(manifest, golden.images, golden.reference, candidates, _name(first))


def _refused(path: Path, name: str, why: str) -> ParityFault:
    return ParityFault(f"{path / name} {why}: the speed of wrong outputs says nothing; see byolt verify {path}")


def choose_batches(asked: Sequence[int], max_batch: int) -> tuple[int, ...]:
    """The batch sizes asked for, or the usual ones that the bundle takes; each once, the smallest first.

    Raises:
        InputError: One is no batch that the bundle takes.
    """
    for batch in asked:
        if not 1 <= batch <= max_batch:
            raise InputError(f"--batch {batch}: the bundle takes batches of 1 to {max_batch}")
    return tuple(sorted(set(asked or (size for size in BATCHES if size <= max_batch))))


def accuracy_of(measures: Measures, task: Task | None = None) -> Accuracy | None:
    """What the bench shows of a comparison with PyTorch; ``None`` of too few images to have neighbours."""
    agreement = measures.top_1_agreement if measures.overlap_at_1 is None else measures.overlap_at_1
    if agreement is None:
        return None
    found = (None, None) if task is None else (task.knn_difference, task.knn_interval_95)
    return Accuracy(measures.images, agreement, measures.relative_l2_mean, *found)


def _candidate(
    path: Path, manifest: Manifest, file: FileReport, known: FileReport | None, threads: int | None
) -> Candidate:
    """A file that passed here, or whose opening says why it does not run here."""
    entry = next((engine for engine in manifest.engines if engine.name == file.name), None)
    opened: Callable[[], Function]
    if entry is None:
        placement = next(onnx.placement for onnx in manifest.files if onnx.name == file.name)
        opened = partial(OnnxRunner, path / file.name, file.provider, threads, placement)
        if file.provider == OPENVINO:
            opened = partial(OpenVinoRunner, path / file.name, threads)
    else:
        opened = partial(open_engine, path, entry)
    return Candidate(_name(file), file.precision, opened, (path / file.name).stat().st_size, _accuracy(file, known))


def _accuracy(file: FileReport, known: FileReport | None) -> Accuracy | None:
    """From the gallery that the bundle was proven on, which is larger, else from the golden images here."""
    found = None
    if known is not None and known.parity.gallery is not None:
        found = accuracy_of(known.parity.gallery, known.parity.task)
    return found or (None if file.parity.golden is None else accuracy_of(file.parity.golden))


def _name(file: FileReport) -> str:
    if file.is_engine:
        return f"{file.name.removesuffix('.engine').removeprefix('encoder.')} in {file.provider}"
    # An int8 file by its placement too: int8, int8-cpu.
    kind = file.name.removeprefix("encoder.").removesuffix(".onnx") if file.precision == "int8" else file.precision
    if file.provider == OPENVINO:
        return f"{kind} in OpenVINO, CPU"
    return f"{kind} in ONNX Runtime, {file.provider.removesuffix('ExecutionProvider')}"
