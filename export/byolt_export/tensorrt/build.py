"""ONNX to TensorRT: strongly typed engines, whose precision is the ONNX file's own and is read from it.

A strongly typed network computes each layer in the type that the ONNX file gives it. That is the one way to FP16 and
INT8 on TensorRT 10, 11 and TensorRT for RTX alike, and it cannot fall back to FP32 in silence.
"""

import hashlib
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from byolt_export.bundle.contents import precision_fault
from byolt_export.bundle.folder import open_file
from byolt_export.bundle.manifest import Engine, Input, Onnx, Profile
from byolt_export.cuda import MissingGpu, find_gpu
from byolt_export.errors import EngineFault, InputError, ParityFault, Stopped
from byolt_export.tensorrt.flavour import Flavour, Target
from byolt_export.tensorrt.log import Log, shared_log
from byolt_export.tensorrt.plan import plan_fault
from byolt_export.tensorrt.progress import BuildProgress, new_monitor
from byolt_export.tensorrt.timings import TimingCache

WORKSPACE_MIB = 1024
_ONNX_BYTES = 2 * 2**30
_LOOK_UP_S = 0.05


@dataclass(frozen=True)
class SerializedEngine:
    """A built engine that is not yet written.

    ``timings`` says whether timings were kept: ``none`` (the flavour takes none), ``new`` or ``reused``.
    """

    plan: bytes
    onnx_sha256: str
    timings: str


@dataclass(frozen=True)
class BuiltEngine:
    """A written engine: its manifest entry, and whether timings were reused for it."""

    entry: Engine
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
) -> list[BuiltEngine]:
    """Write ``encoder.<precision>.<target>.engine`` for each ONNX file of a bundle and each target; no manifest.

    A fault leaves none of the engines that this call wrote, and every file that was there before as it was. Each
    entry's verdict is ``not run here``: who can run the engine proves it.

    Args:
        folder: The bundle, finished or still staged; the engines go there too.
        files: The manifest's entries of the ONNX files to build from.
        profile: Batch sizes, of ``profile_of``.
        flavour: Of ``choose_flavour``.
        targets: Of ``resolve_target``.
        workspace_mib: Most scratch memory that a layer may use on the GPU.
        cache_dir: Folder of timing caches; left out, none is kept.
        progress: Told the step and the share done, by the building thread; ``False`` stops the build.

    Raises:
        InputError: An ONNX file is missing, damaged, or no encoder of a bundle.
        MissingPart: This version of the flavour cannot build one of them.
        ParityFault: A file does not compute in the precision it is named for.
        EngineFault: TensorRT does not take a graph, or does not build it.
        Stopped: ``progress`` said so.
    """
    for file in files:
        flavour.check_precision(file.precision)  # Before minutes are spent on the others.
    beside: list[tuple[Path, Path]] = []
    built = []
    try:
        for file in files:
            path = open_file(folder, file.name, file.sha256)
            for target in targets:
                plan = build_engine(
                    path,
                    flavour=flavour,
                    target=target,
                    precision=file.precision,
                    profile=profile,
                    workspace_mib=workspace_mib,
                    cache_dir=cache_dir,
                    progress=progress,
                )
                if plan.onnx_sha256 != file.sha256:
                    raise InputError(f"{path} changed while it was read: copy the bundle again")
                name = f"encoder.{file.precision}.{target.name}.engine"
                beside.append((folder / f".{name}.{os.getpid()}", folder / name))
                beside[-1][0].write_bytes(plan.plan)
                entry = _entry(name, file, plan, flavour, target, profile, workspace_mib)
                built.append(BuiltEngine(entry, plan.timings))
        for new, final in beside:
            os.replace(new, final)
    finally:
        for new, _ in beside:
            new.unlink(missing_ok=True)
    return built


def build_engine(
    onnx: Path,
    *,
    flavour: Flavour,
    target: Target,
    precision: str,
    profile: Profile,
    workspace_mib: int = WORKSPACE_MIB,
    cache_dir: Path | None = None,
    progress: BuildProgress | None = None,
) -> SerializedEngine:
    """Build one engine in memory; see ``build_engines`` for arguments and errors. Ctrl-C ends the build first."""
    model = _read_onnx(onnx)
    digest = hashlib.sha256(model).hexdigest()
    options = [digest, flavour.name, flavour.version, target.gpu, target.capabilities, workspace_mib]
    cache = TimingCache.of(cache_dir, flavour, [*options, *profile.model_dump().values()])
    build = _Build(onnx, flavour, progress)
    build.parse(model)
    flavour.check_precision(precision)
    if fault := precision_fault(onnx, precision, model):
        raise ParityFault(f"{onnx} becomes no engine: {fault}; export it again")
    build.configure(target, profile, workspace_mib)
    timings = build.use(cache) if cache else "none"
    plan = build.run()
    if cache:
        cache.keep(build.config.get_timing_cache())
    return SerializedEngine(plan, digest, timings)


class _Build:
    """One network on its way to a plan.

    TensorRT's objects stay attributes: a network outlived by its parser, or a builder by its network, ends the process.
    """

    def __init__(self, onnx: Path, flavour: Flavour, progress: BuildProgress | None) -> None:
        trt = flavour.trt
        self.onnx, self.flavour, self.trt = onnx, flavour, trt
        self.log: Log = shared_log(trt)
        self.monitor = new_monitor(trt, progress)
        self.builder = trt.Builder(self.log)
        if self.builder is None:
            raise EngineFault(f"{flavour} gives no builder: {self.log.reason()}")
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(typed)
        self.parser = trt.OnnxParser(self.network, self.log)
        self.config = self.builder.create_builder_config()

    def parse(self, model: bytes) -> None:
        if not self.parser.parse(model):
            raise self._parse_fault()
        trt, network = self.trt, self.network
        inputs = [network.get_input(k) for k in range(network.num_inputs)]
        outputs = [network.get_output(k) for k in range(network.num_outputs)]
        shapes = [tuple(tensor.shape) for tensor in (*inputs, *outputs)]
        if (
            [(tensor.name, tensor.dtype) for tensor in inputs] != [("images", trt.DataType.UINT8)]
            or [tensor.dtype for tensor in outputs] != [trt.DataType.FLOAT]
            or [len(shape) for shape in shapes] != [4, 2]
            or min(shapes[0][1:]) < 1
            or shapes[0][3] != 3
        ):
            raise InputError(
                f"{self.onnx} is not an encoder of a bundle: it must map one input `images`, uint8 (batch, H, W, 3), "
                "to one float output (batch, D)"
            )
        if shapes[0][0] != -1:
            raise InputError(f"{self.onnx} accepts batches of {shapes[0][0]} alone: export it with a dynamic batch")

    def _parse_fault(self) -> Exception:
        errors = [self.parser.get_error(k) for k in range(self.parser.num_errors)]
        error = next((e for e in errors if e.node() >= 0), errors[0] if errors else None)
        reason = self.log.reason() if error is None else _plain(error.desc())
        if error is None or error.node() < 0:
            return InputError(f"{self.onnx} cannot be read as ONNX: {reason}; export it again")
        if "Plugin not found" in reason or reason == "false":
            reason = "it has no such operator"
        return EngineFault(
            f"{self.onnx} does not become an engine: {self.flavour} refuses node `{error.node_name()}` "
            f"({error.node_operator()}): {reason}; replace that layer, or run the ONNX file itself"
        )

    def configure(self, target: Target, profile: Profile, workspace_mib: int) -> None:
        trt, config = self.trt, self.config
        config.clear_flag(trt.BuilderFlag.TF32)  # On by default: fp32 would keep 10 bits of its mantissa.
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * 2**20)
        config.progress_monitor = self.monitor
        images = self.network.get_input(0)
        height, width, channels = tuple(images.shape)[1:]
        batches = (profile.min_batch, profile.opt_batch, profile.max_batch)
        ranges = self.builder.create_optimization_profile()
        ranges.set_shape(images.name, *((batch, height, width, channels) for batch in batches))
        if config.add_optimization_profile(ranges) < 0:
            raise InputError(f"batches of {batches[0]} to {batches[2]}, tuned for {batches[1]}, are no range")
        if self.flavour.name == "tensorrt_rtx":
            config.num_compute_capabilities = len(target.capabilities)
            for index, number in enumerate(target.capabilities):
                capability = getattr(trt.ComputeCapability, f"SM{number}")
                if not config.set_compute_capability(capability, index):
                    raise EngineFault(f"{self.flavour} refuses SM {number}: {self.log.reason()}")

    def use(self, cache: "TimingCache") -> str:
        """Hand the cache to the builder; an old one that does not fit is as good as an empty one."""
        content = cache.load()
        if content and self.config.set_timing_cache(self.config.create_timing_cache(content), False):
            return "reused"
        self.config.set_timing_cache(self.config.create_timing_cache(b""), False)
        return "new"

    def run(self) -> bytes:
        """Build in a second thread: Python handles signals in the first one alone, and between two calls of its own."""
        with ThreadPoolExecutor(1, "engine") as thread:
            future = thread.submit(self.builder.build_serialized_network, self.network, self.config)
            try:
                # A signal may wake the other thread alone: this one looks up now and then.
                while not wait([future], timeout=_LOOK_UP_S).done:
                    pass
                memory = future.result()
            except BaseException:  # Ctrl-C: leaving the block waits until the builder has heard of it.
                self.monitor.stopped = True
                raise
        if self.monitor.fault is not None:
            raise self.monitor.fault
        if self.monitor.stopped:
            raise Stopped(f"stopped while the engine of {self.onnx} was built; nothing was written", signal.SIGINT)
        plan = b"" if memory is None else bytes(memory)
        if not plan:
            raise EngineFault(f"{self.flavour} does not build {self.onnx}: {self.log.reason()}")
        if self.flavour.name == "tensorrt_rtx" and (fault := plan_fault(plan, self.flavour)):
            raise EngineFault(f"{self.flavour} built {self.onnx}, but {fault}: build it again")
        return plan


def _read_onnx(path: Path) -> bytes:
    """The file's bytes, of which TensorRT would take none at all for an empty network."""
    try:
        size = path.stat().st_size
        if not 0 < size <= _ONNX_BYTES:
            raise InputError(f"{path} has {size} bytes, which is no ONNX file of a bundle: export it again")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error


def _plain(reason: str) -> str:
    """The last part of a parser's error: what comes before it are lines of its source."""
    lines = reason.strip().splitlines() or ["it does not say why"]
    return lines[0].rpartition("Assertion failed: ")[2].rpartition(": ")[2].rstrip(". ")


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
