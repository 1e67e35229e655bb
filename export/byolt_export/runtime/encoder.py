"""A bundle as one function from frames to outputs: the Python twin of C++'s ``byolt::Encoder``."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from byolt_export.arrays import Frames, Images, Outputs
from byolt_export.bundle.folder import FILES, open_file, read_manifest
from byolt_export.bundle.manifest import Engine, Manifest, Onnx, Precision, precision_fault
from byolt_export.cuda import find_gpu
from byolt_export.errors import InputError, MissingPart, quoted
from byolt_export.runtime.onnx_runner import Runner, open_onnx
from byolt_export.runtime.openvino_runner import OPENVINO
from byolt_export.runtime.processor import cpu_name, cpu_threads, gpu_names
from byolt_export.runtime.resize import to_inputs
from byolt_export.tensorrt.runner import EngineRunner, open_engine

Runtime = Literal["auto", "tensorrt", "cuda", "cpu", "openvino"]

# What serves best where nothing is asked for: half precision costs a GPU nothing, and a CPU has none.
_ON_GPU: tuple[Precision, ...] = ("fp16", "fp32", "int8")
_ON_CPU: tuple[Precision, ...] = ("fp32", "fp16", "int8")


class Encoder:
    """An opened bundle: frames of any size to float32 outputs. For one thread at a time.

    The best file that passed is opened: a TensorRT engine, else ONNX Runtime on CUDA, else on the CPU; OpenVINO, or
    the file that was fastest when the bundle was verified on this machine, where they are asked for. A file whose
    verdict is not ``passed`` is refused.

    Attributes:
        file: Name of the bundle's file that runs: embeddings of another file are not to be compared with its own.
        sha256: Its digest.
        runtime: What runs it: ``tensorrt``, ``cuda``, ``cpu`` or ``openvino``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        classes: Names of the outputs of a classifier, in order; empty for an encoder.
        dim: Values of one output; of feature maps, the sum of their channels.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        runtime: Runtime = "auto",
        precision: Precision | Literal["fastest"] | None = None,
        allow_unproven: bool = False,
        threads: int | None = None,
    ) -> None:
        """Check a bundle and open its best file.

        Args:
            bundle: The folder.
            runtime: ``tensorrt``, ``cuda``, ``cpu`` (both ONNX Runtime) or ``openvino`` (on the CPU) is used or
                refused, never replaced.
            precision: Left out, fp16 on a GPU and fp32 on a CPU, or what is there. ``fastest``: what ``verify`` wrote
                down on this processor with as many threads, at the batch size that the bundle is tuned for; nothing is
                timed here.
            allow_unproven: Open a file whose verdict is not ``passed``.
            threads: CPU threads of one call; left out, one per core.

        Raises:
            InputError: The bundle is missing, damaged, or not what its manifest says; or an argument is not known.
            MissingPart: Nothing of it may run here; the message says why for each file.
            EngineFault: An engine that fits this machine does not load.
        """
        if runtime not in get_args(Runtime):
            raise InputError(f"runtime {runtime!r} is not known: it is auto, tensorrt, cuda, cpu or openvino")
        if precision not in (None, "fastest", *FILES):
            raise InputError(f"precision {precision!r} is not known: it is fastest, or one of {', '.join(FILES)}")
        folder = Path(bundle)
        manifest = read_manifest(folder)
        self._pixels, self._output = manifest.contract.input, manifest.contract.output
        self.classes, self.dim = manifest.contract.classes, manifest.contract.output.dim
        refusals: dict[str, None] = {}  # In order, each once.
        if precision == "fastest":
            ranked = _fastest(folder, manifest, runtime, threads)
        else:
            ranked = list(_ranked(manifest, runtime, precision))
        for kind, entry in ranked:
            if isinstance(entry, Onnx) and not entry.is_made:
                refusals[f"{entry.name} could not be made ({quoted(entry.reason)})"] = None
                continue
            doubt = "" if allow_unproven else _why_unproven(entry)
            if doubt:
                refusals[f"{entry.name} is not proven ({doubt}): run byolt verify {folder} here"] = None
                continue
            try:
                self._run = _open(folder, manifest, entry, kind, threads)
            except MissingPart as error:
                refusals[str(error)] = None
                continue
            self.file, self.sha256, self.runtime = entry.name, entry.sha256, kind
            self.precision = entry.precision
            return
        why = "; ".join(refusals) or f"it has no {f'{precision} file' if precision else 'engine'} for {runtime}"
        raise MissingPart(f"{folder} holds nothing that may run here: {why}")

    def __call__(self, frames: Frames) -> Outputs | dict[str, Outputs]:
        """Outputs (N, D): embeddings, or class scores of a classifier; of a bundle of features their maps.

        Feature maps are (N, C, H, W), tokens (N, tokens, C): the array itself where one comes out, several by name.

        Args:
            frames: uint8, RGB: one (H, W, 3), a batch (N, H, W, 3), or a list of frames of any sizes. They are cropped
                or squashed and resized as the training did; whole frames of a fixed camera go in as they are. Of a
                bundle of grey images (H, W) or (H, W, 1), and uint16 where its ``bit_depth`` is above 8.

        Raises:
            InputError: A frame has another type or shape.
            MissingPart: Pillow is not installed, and a frame has to be resized.
            ByoltError: The runtime refuses.
        """
        images = to_inputs(frames, self._pixels)
        step = min(self._pixels.max_batch, getattr(self._run, "max_batch", self._pixels.max_batch))
        parts = [self._outputs(images[start : start + step]) for start in range(0, len(images), step)]
        shapes = {features.name: features.shape for features in self._output.maps} or {self._output.name: (self.dim,)}
        whole = {
            name: np.concatenate([part[name] for part in parts]) if parts else np.empty((0, *shape), np.float32)
            for name, shape in shapes.items()
        }
        return whole if len(whole) > 1 else whole[next(iter(whole))]

    def _outputs(self, images: Images) -> dict[str, Outputs]:
        return {self._output.name: self._run(images)} if isinstance(self._run, EngineRunner) else self._run.maps(images)

    def close(self) -> None:
        """Give an engine's memory on the GPU back; nothing of ONNX Runtime's or OpenVINO's has to be closed."""
        if isinstance(self._run, EngineRunner):
            self._run.close()


def _fastest(
    folder: Path, manifest: Manifest, runtime: Runtime, threads: int | None
) -> list[tuple[Runtime, Onnx | Engine]]:
    """What ``verify`` timed on this machine, the fastest first, each file with the runtime that it was timed in.

    Raises:
        MissingPart: It timed nothing here, and there is more than one to choose from.
    """
    here, count = {cpu_name(), *gpu_names()}, cpu_threads(threads)
    listed: tuple[Onnx | Engine, ...] = (*manifest.files, *manifest.engines)
    entries = {entry.name: entry for entry in listed}
    timed = [
        speed
        for speed in manifest.speeds
        if (speed.processor in here and (speed.threads, speed.batch) == (count, manifest.contract.input.opt_batch))
        and runtime in ("auto", speed.runtime)
        and speed.file in entries
    ]
    if timed:
        timed.sort(key=lambda speed: -speed.images_per_s)
        return [(speed.runtime, entries[speed.file]) for speed in timed]
    ranked = list(_ranked(manifest, runtime, None))
    if len({entry.name for _, entry in ranked if not _why_unproven(entry)}) < 2:
        return ranked  # Nothing is timed where there is nothing to compare.
    raise MissingPart(
        f"{folder} tells no speeds of {cpu_name()} with {count} threads: run `byolt verify {shlex.quote(str(folder))}"
        f"{'' if threads is None else f' --threads {threads}'}` here"
    )


def _why_unproven(entry: Onnx | Engine) -> str:
    """Why a file may not be trusted to be what it is named for; empty where it may."""
    fault = precision_fault(entry.precision, entry.shares, entry.placement) if isinstance(entry, Onnx) else ""
    return fault or ("" if entry.verdict == "passed" else f"verdict `{entry.verdict}`")


def _ranked(
    manifest: Manifest, runtime: Runtime, precision: Precision | None
) -> Iterator[tuple[Runtime, Onnx | Engine]]:
    """Runtimes with the files that each may open, the best first."""
    kinds: tuple[Runtime, ...] = ("tensorrt", "cuda", "cpu") if runtime == "auto" else (runtime,)
    for kind in kinds:
        entries: tuple[Onnx | Engine, ...] = manifest.engines if kind == "tensorrt" else manifest.files
        for wanted in _ON_CPU if kind in ("cpu", "openvino") else _ON_GPU:
            if precision in (None, wanted):
                fitting = [entry for entry in entries if entry.precision == wanted and _may_run(entry, kind)]
                yield from (
                    (kind, entry) for entry in sorted(fitting, key=lambda entry: _is_placed_elsewhere(entry, kind))
                )


def _may_run(entry: Onnx | Engine, kind: Runtime) -> bool:
    """Whether a file may run in this runtime: what is placed for OpenVINO is proven there alone."""
    return kind == "openvino" or not (isinstance(entry, Onnx) and entry.placement == "openvino")


def _is_placed_elsewhere(entry: Onnx | Engine, kind: Runtime) -> bool:
    """Whether an int8 file's Q/DQ are placed for another runtime than this one, which runs it, but more slowly."""
    placement = entry.placement if isinstance(entry, Onnx) else None
    return placement is not None and placement != ("tensorrt" if kind == "cuda" else kind)


def _open(
    folder: Path, manifest: Manifest, entry: Onnx | Engine, kind: Runtime, threads: int | None
) -> Runner | EngineRunner:
    """The file, after its digest and its contract were compared with the manifest."""
    if isinstance(entry, Engine):
        return open_engine(folder, entry)
    if kind == "cuda":
        find_gpu("ONNX Runtime's CUDA provider runs on a GPU")
    path = open_file(folder, entry.name, entry.sha256)
    provider = OPENVINO if kind == "openvino" else f"{kind.upper()}ExecutionProvider"
    return open_onnx(path, manifest.contract, provider, threads, entry.placement)
