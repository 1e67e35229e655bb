"""A bundle as one function from frames to outputs: the Python twin of C++'s ``byolt::Encoder``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from byolt_export.arrays import Frames, Images, Outputs
from byolt_export.bundle.folder import FILES, open_file, read_manifest
from byolt_export.bundle.manifest import Engine, Manifest, Onnx, Precision, precision_fault
from byolt_export.cuda import find_gpu
from byolt_export.errors import InputError, MissingPart, quoted
from byolt_export.runtime.onnx_runner import OnnxRunner, open_onnx
from byolt_export.runtime.resize import to_inputs
from byolt_export.tensorrt.runner import EngineRunner, open_engine

Runtime = Literal["auto", "tensorrt", "cuda", "cpu"]

# What serves best where nothing is asked for: half precision costs a GPU nothing, and a CPU has none.
_ON_GPU: tuple[Precision, ...] = ("fp16", "fp32", "int8")
_ON_CPU: tuple[Precision, ...] = ("fp32", "fp16", "int8")


class Encoder:
    """An opened bundle: frames of any size to float32 outputs. For one thread at a time.

    The best file that passed is opened: a TensorRT engine, else ONNX Runtime on CUDA, else on the CPU. A file whose
    verdict is not ``passed`` is refused.

    Attributes:
        file: Name of the bundle's file that runs.
        precision: ``fp32``, ``fp16`` or ``int8``.
        classes: Names of the outputs of a classifier, in order; empty for an encoder.
        dim: Values of one output; of feature maps, the sum of their channels.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        runtime: Runtime = "auto",
        precision: Precision | None = None,
        allow_unproven: bool = False,
        threads: int | None = None,
    ) -> None:
        """Check a bundle and open its best file.

        Args:
            bundle: The folder.
            runtime: ``tensorrt``, ``cuda`` or ``cpu`` (both ONNX Runtime) is used or refused, never replaced.
            precision: Left out, fp16 on a GPU and fp32 on a CPU, or what is there.
            allow_unproven: Open a file whose verdict is not ``passed``.
            threads: CPU threads of one call; left out, one per core.

        Raises:
            InputError: The bundle is missing, damaged, or not what its manifest says; or an argument is not known.
            MissingPart: Nothing of it may run here; the message says why for each file.
            EngineFault: An engine that fits this machine does not load.
        """
        if runtime not in ("auto", "tensorrt", "cuda", "cpu"):
            raise InputError(f"runtime {runtime!r} is not known: it is auto, tensorrt, cuda or cpu")
        if precision is not None and precision not in FILES:
            raise InputError(f"precision {precision!r} is not known: it is one of {', '.join(FILES)}")
        folder = Path(bundle)
        manifest = read_manifest(folder)
        self._pixels, self._output = manifest.contract.input, manifest.contract.output
        self.classes, self.dim = manifest.contract.classes, manifest.contract.output.dim
        refusals: dict[str, None] = {}  # In order, each once.
        for kind, entry in _ranked(manifest, runtime, precision):
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
            self.file, self.precision = entry.name, entry.precision
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
        """Give an engine's memory on the GPU back; nothing of ONNX Runtime's has to be closed."""
        if isinstance(self._run, EngineRunner):
            self._run.close()


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
        for wanted in _ON_CPU if kind == "cpu" else _ON_GPU:
            if precision in (None, wanted):
                fitting = [entry for entry in entries if entry.precision == wanted]
                yield from (
                    (kind, entry) for entry in sorted(fitting, key=lambda entry: _is_placed_elsewhere(entry, kind))
                )


def _is_placed_elsewhere(entry: Onnx | Engine, kind: Runtime) -> bool:
    """Whether an int8 file's Q/DQ are placed for another runtime than this one, which runs it, but more slowly."""
    placement = entry.placement if isinstance(entry, Onnx) else None
    return placement is not None and placement != ("tensorrt" if kind == "cuda" else kind)


def _open(
    folder: Path, manifest: Manifest, entry: Onnx | Engine, kind: Runtime, threads: int | None
) -> OnnxRunner | EngineRunner:
    """The file, after its digest and its contract were compared with the manifest."""
    if isinstance(entry, Engine):
        return open_engine(folder, entry)
    if kind == "cuda":
        find_gpu("ONNX Runtime's CUDA provider runs on a GPU")
    path = open_file(folder, entry.name, entry.sha256)
    return open_onnx(path, manifest.contract, f"{kind.upper()}ExecutionProvider", threads, entry.placement)
