"""ONNX to TensorRT: strongly typed engines, whose precision is the ONNX file's own.

A strongly typed network computes each layer in the type that the ONNX file gives it. That is the one way to FP16 and
INT8 on TensorRT 10, 11 and TensorRT for RTX alike, and it cannot fall back to FP32 in silence.
"""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from byolt_export.bundle.contents import check_onnx
from byolt_export.bundle.folder import open_file
from byolt_export.bundle.image_input import Input
from byolt_export.bundle.manifest import Engine, Onnx, Profile, precision_fault
from byolt_export.cuda import MissingGpu, find_gpu
from byolt_export.errors import InputError, ParityFault
from byolt_export.files import replacing
from byolt_export.tensorrt.flavour import Flavour, Target
from byolt_export.tensorrt.network import Network, read_onnx
from byolt_export.tensorrt.progress import BuildProgress
from byolt_export.tensorrt.timings import TimingCache

WORKSPACE_MIB = 1024


@dataclass(frozen=True)
class SerializedEngine:
    """A built engine that is not yet written.

    ``timings`` says whether timings were kept: ``none`` (the flavour takes none), ``new`` or ``reused``.
    """

    plan: bytes
    onnx_sha256: str
    timings: str


def profile_of(pixels: Input) -> Profile:
    """The batch sizes that the contract promises."""
    return Profile(min_batch=1, opt_batch=pixels.opt_batch, max_batch=pixels.max_batch)


def build_engines(
    folder: Path,
    files: Sequence[Onnx],
    profile: Profile,
    *,
    flavour: Flavour,
    targets: Sequence[Target],
    workspace_mib: int = WORKSPACE_MIB,
    cache_dir: Path | None = None,
    progress: BuildProgress | None = None,
) -> list[Engine]:
    """Write ``encoder.<precision>.<target>.engine`` for each ONNX file of a bundle and each target; no manifest.

    A fault leaves none of the engines that this call wrote, and every file that was there before as it was. Each
    entry's verdict is ``not run here``: who can run the engine proves it.

    Args:
        folder: The bundle, finished or still staged; the engines go there too.
        files: The manifest's entries of the ONNX files to build from.
        profile: Batch sizes, of ``profile_of``.
        flavour: Of ``choose_flavour``.
        targets: Of ``resolve_target``.
        workspace_mib, cache_dir, progress: As ``add_engines`` takes them.

    Raises:
        ParityFault: A file does not compute in the precision it is named for.
        ByoltError: As ``add_engines`` does.
    """
    for file in files:
        # Before minutes are spent on the others.
        if fault := precision_fault(file.precision, file.shares, file.placement):
            raise ParityFault(f"{folder / file.name} becomes no engine: {fault}; export it again")
        flavour.check_precision(file.precision)
    built = []
    with ExitStack() as files_beside:  # All take their places at the end, or none.
        for file in files:
            path = open_file(folder, file.name, file.sha256)
            for target in targets:
                plan = build_engine(
                    path,
                    flavour=flavour,
                    target=target,
                    profile=profile,
                    workspace_mib=workspace_mib,
                    cache_dir=cache_dir,
                    progress=progress,
                )
                if plan.onnx_sha256 != file.sha256:
                    raise InputError(f"{path} changed while it was read: copy the bundle again")
                name = f"encoder.{file.precision}.{target.name}.engine"
                files_beside.enter_context(replacing(folder / name)).write_bytes(plan.plan)
                built.append(_entry(name, file, plan, flavour, target, profile, workspace_mib))
    return built


def build_engine(
    onnx: Path,
    *,
    flavour: Flavour,
    target: Target,
    profile: Profile,
    workspace_mib: int = WORKSPACE_MIB,
    cache_dir: Path | None = None,
    progress: BuildProgress | None = None,
) -> SerializedEngine:
    """Build one engine in memory; see ``build_engines`` for arguments and errors. Ctrl-C ends the build first."""
    model = read_onnx(onnx)
    check_onnx(onnx, model)
    digest = hashlib.sha256(model).hexdigest()
    options = [digest, flavour.name, flavour.version, target.gpu, target.capabilities, workspace_mib]
    cache = TimingCache.of(cache_dir, flavour, [*options, *profile.model_dump().values()])
    build = Network(onnx, flavour, progress)
    build.parse(model)
    build.configure(target, profile, workspace_mib)
    timings = build.use(cache) if cache else "none"
    plan = build.run()
    if cache:
        cache.keep(build.config.get_timing_cache())
    return SerializedEngine(plan, digest, timings)


def _entry(
    name: str,
    file: Onnx,
    plan: SerializedEngine,
    flavour: Flavour,
    target: Target,
    profile: Profile,
    workspace_mib: int,
) -> Engine:
    return Engine(
        name=name,
        precision=file.precision,
        onnx=file.name,
        onnx_sha256=file.sha256,
        flavour=flavour.name,
        version=flavour.version,
        target=target.name,
        compute_capabilities=target.capabilities,
        profile=profile,
        workspace_mib=workspace_mib,
        sha256=hashlib.sha256(plan.plan).hexdigest(),
        verdict="not run here",
        reason=why_not_run(flavour, target),
    )


def why_not_run(flavour: Flavour, target: Target) -> str:
    """Why an engine that was just built is not proven yet, and where it can be."""
    try:
        gpu = find_gpu(f"{flavour} runs engines on a GPU")
    except MissingGpu as error:
        return str(error)
    if gpu.capability not in target.capabilities:
        numbers = ", ".join(map(str, target.capabilities))
        return f"this {gpu.name} is SM {gpu.capability}, and the engine is for SM {numbers}: run `byolt verify` there"
    return "built, and not yet run: `byolt verify` proves it"
