"""A module in, a proven bundle out: export, quantize, compare, write atomically.

Axes: B batch, N images, H W pixels, D output features.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from pydantic import ValidationError

from byolt_export.arrays import Frames, Function, Images, Maps, Outputs
from byolt_export.bundle.folder import FILES, file_name, staged
from byolt_export.bundle.golden import GoldenVectors, count_with_maps, not_applicable
from byolt_export.bundle.image_input import Input
from byolt_export.bundle.manifest import (
    CONTRACT_KEY,
    Calibration,
    Contract,
    Features,
    Output,
    Placement,
    Precision,
    first_fault,
)
from byolt_export.earlier import Judges, keep_earlier
from byolt_export.errors import ByoltError, InputError, MissingPart, Stopped
from byolt_export.made_files import MadeFile, reason_of, write_bundle
from byolt_export.options import BundleOptions
from byolt_export.proof.bisect import bisect
from byolt_export.proof.drift import own_outputs
from byolt_export.proof.gates import GATES
from byolt_export.proof.images import ProofImages, check_images, choose_images
from byolt_export.proof.report import FileReport, Report
from byolt_export.proof.speed import time_files
from byolt_export.proof.task import Gallery
from byolt_export.proof.verify import judge_export
from byolt_export.quantize.fp16 import Fp16
from byolt_export.quantize.int8 import Int8, Tune
from byolt_export.quantize.multiply_adds import precision_shares
from byolt_export.runtime.onnx_runner import open_onnx, proven_on, runtime_version
from byolt_export.runtime.openvino_runner import require_openvino

if TYPE_CHECKING:
    from torch import nn

_BISECTED = 16  # Images whose every tensor is kept.


def build_bundle(
    module: "nn.Module",
    out_dir: str | Path,
    *,
    images: Frames | ProofImages,
    size_px: int,
    precisions: Sequence[Precision] = ("fp32",),
    classes: Sequence[str] = (),
    options: BundleOptions | None = None,
    on_log: Callable[[str], None] = lambda _: None,
) -> Report:
    """Export a module, prove each file against the module, and write all as a bundle, at one stroke.

    When parity fails, the bundle is written all the same, to be looked into: its manifest and the report's ``verdict``
    then say ``failed``. Any error leaves what was at ``out_dir`` before.

    Args:
        module: Maps normalised images (B, 3, S, S) to an embedding (B, D), or with ``classes`` to logits.
        out_dir: The bundle's folder. Of an earlier bundle there, files of other precisions and engines are kept where
            they are of the same encoder, see ``keep_earlier``; the rest is replaced.
        images: What the bundle is proven on: uint8 frames of any size, of which ``choose_images`` makes disjoint sets,
            or the sets themselves. Some of them travel in the bundle.
        size_px: S.
        precisions: Files to make: ``fp32``, ``fp16``, ``int8``.
        classes: Names of the logits, in order.
        options: Normalisation, batch sizes and more; left out, the defaults of ``BundleOptions``.
        on_log: Takes one line on what is being done.

    Raises:
        InputError: Images, classes and module do not fit one another, or the module cannot be exported.
        MissingPart: onnx, onnxscript, onnxruntime or an OpenVINO that is asked for is not installed.
    """
    runtime_version()  # Missing parts are reported before the work.
    options = options or BundleOptions()
    pixels = options.input_of(size_px)
    options.check(classes)
    precisions = _check_precisions(precisions)
    if not isinstance(images, ProofImages):
        images = choose_images(images, pixels, precisions)
    check_images(images, pixels)
    if options.int8 != "plain" and "int8" not in precisions:
        raise InputError(f"export: int8 is {options.int8!r}, but no INT8 is made: add int8 to the precisions")
    if options.openvino:
        if "int8" not in precisions:
            raise InputError("export: INT8 for OpenVINO is asked for, but no INT8: add int8 to the precisions")
        require_openvino()
    if "int8" in precisions and images.calibration is None:
        raise InputError("int8 needs calibration images, which are none of those that it is measured on")
    builder = _Builder(module, pixels, images, classes, options, on_log)
    with staged(Path(out_dir)) as folder:
        made = builder.time_all(folder, builder.make_all(folder, precisions))
        report = Report(Path(out_dir), tuple(each.report for each in made))
        run = builder.options.run
        write_bundle(folder, made, report, builder.contract, builder.golden, kind=images.golden_kind, run=run)
        judges = Judges(builder.golden, builder.gallery, builder.write, run)
        return keep_earlier(Path(out_dir), folder, report, judges, on_log)


def _check_precisions(precisions: Sequence[str]) -> tuple[Precision, ...]:
    asked = (precisions,) if isinstance(precisions, str) else precisions
    if unknown := [name for name in asked if name not in FILES]:
        raise InputError(f"precision {unknown[0]} is not known: ask for {', '.join(FILES)}")
    if not asked:
        raise InputError(f"no precision is named: ask for {', '.join(FILES)}")
    return tuple(name for name in get_args(Precision) if name in asked)


class _Builder:
    """A module with PyTorch's outputs of the images, which each file is made from and judged by."""

    def __init__(
        self,
        module: "nn.Module",
        pixels: Input,
        images: ProofImages,
        classes: Sequence[str],
        options: BundleOptions,
        on_log: Callable[[str], None],
    ) -> None:
        from byolt_export.onnx.controls import wrong_outputs  # Brings torch, which only an export needs.
        from byolt_export.onnx.outputs import NamedOutputs
        from byolt_export.onnx.plain import name_of, plain_copy
        from byolt_export.onnx.reference import torch_maps, torch_outputs

        if options.output == "features":
            module = NamedOutputs(plain_copy(module))
        self.module, self.images, self.options, self.on_log = module, images, options, on_log
        self.how: dict[str, Any] = {"pixels": pixels, "normalize": options.normalize}
        on_log(f"PyTorch's outputs of {len(images.golden)} golden images and of wrong models")
        reference = torch_outputs(module, images.golden, **self.how)
        maps: dict[str, Outputs] = {}
        if isinstance(module, NamedOutputs):
            maps = torch_maps(module, images.golden[:1], pixels=pixels)
        output = _output(options, classes, reference.shape[1], maps)
        self.contract = _contract(pixels, options, classes, output)
        if isinstance(module, NamedOutputs):
            maps = torch_maps(module, images.golden[: count_with_maps(output, len(images.golden))], pixels=pixels)
        wrong = wrong_outputs(module, images.golden, reference, **self.how)
        if not all(np.isfinite(outputs).all() for outputs in (reference, *wrong.values())):
            raise InputError(f"{name_of(module)} gives outputs that are not finite: nothing can be proven of it")
        absent = not_applicable(images.golden, pixels)
        controls = {name: None if name in absent else outputs for name, outputs in wrong.items()}
        self.golden = GoldenVectors(images.golden, reference, controls, images.golden_labels, maps)

        def outputs_of(some: Images) -> Outputs:
            outputs = torch_outputs(module, some, **self.how)
            if not np.isfinite(outputs).all():  # NaN is above no limit: it would pass every gate.
                raise InputError(f"{name_of(module)} gives outputs that are not finite: nothing can be proven of it")
            return outputs

        self.gallery = _gallery(images, outputs_of, on_log)

    def make_all(self, folder: Path, precisions: Sequence[Precision]) -> list[MadeFile]:
        """Each file, or why it could not be made: one precision's failure never costs the others.

        Raises:
            InputError: None could be made.
            ByoltError: The machine's fault: memory, disk, or an optional part that is not installed.
        """
        wanted = [(precision, placement) for precision in precisions for placement in self._placements(precision)]
        answers = [self._made_or_why(folder, *each) for each in wanted]
        made = [each for each in answers if each is not None]
        errors = [error for error in made if isinstance(error, Exception)]
        if len(errors) == len(made):
            raise errors[0] if isinstance(errors[0], ByoltError) else InputError(reason_of(errors[0])) from errors[0]
        return [
            MadeFile.failed(precision, each, placement) if isinstance(each, Exception) else each
            for (precision, placement), each in zip(wanted, answers, strict=True)
            if each is not None
        ]

    def _made_or_why(
        self, folder: Path, precision: Precision, placement: Placement | None
    ) -> MadeFile | Exception | None:
        """One file, or why there is none: whatever torch, ONNX, ONNX Runtime or NumPy say of a module's own graph."""
        try:
            return self.make(folder / file_name(precision, placement), precision, placement)
        except (OSError, MemoryError, MissingPart, Stopped):
            raise
        except Exception as error:  # noqa: BLE001  # It is told, and becomes a verdict or is raised.
            name = file_name(precision, placement)
            self.on_log(f"{name}: it could not be made: {reason_of(error)}")
            (folder / name).unlink(missing_ok=True)
            return error

    def make(self, path: Path, precision: Precision, placement: Placement | None) -> MadeFile | None:
        """Export one file, and judge it; ``None`` where INT8 that is not TensorRT's would keep too little to pass."""
        import onnx

        calibration = None
        self.on_log(f"{path.name}: {'quantizing' if precision == 'int8' else 'exporting'}")
        if precision == "int8":
            calibration = self._quantize(path, placement)
            if calibration is None:
                self.on_log(
                    f"{path.name} is not made: with {self.options.least_share:.0%} or more of it in whole numbers it "
                    f"keeps too few {'classes' if self.contract.classes else 'neighbours'}"
                )
                return None
        else:
            self.write(path, precision)
        self.on_log(f"{path.name}: proving")
        model = onnx.load(path)
        (opset,) = (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        shares = precision_shares(model)
        own = own_outputs(path, self.golden.images, self.contract, placement) if precision == "int8" else None
        how = (self.contract, self.golden, self.gallery, placement, own)
        parity = judge_export(path, precision, shares, *how)
        found = None
        if self.options.bisect:
            from byolt_export.onnx.export import torch_tensors

            shown = self.images.golden[:_BISECTED]
            tensors = torch_tensors(self.module, shown, pixels=self.contract.input)
            # A map is called what its user calls it, which may be another tensor's name in PyTorch's program.
            named = {features.name for features in self.contract.output.maps}
            tensors = {name: tensor for name, tensor in tensors.items() if name not in named}
            found = bisect(path, tensors, shown, limit=GATES[precision].relative_l2_worst_max)
        report = FileReport(path.name, precision, proven_on(placement), parity, found)
        return MadeFile(report, opset, shares, calibration, placement, None if own is None else own.outputs)

    def time_all(self, folder: Path, made: Sequence[MadeFile]) -> list[MadeFile]:
        """The same with the speeds of those that passed, where there are several."""
        placements = {each.report.name: each.placement for each in made}

        def open_run(file: FileReport) -> Function:
            return open_onnx(folder / file.name, self.contract, file.provider, None, placements[file.name])

        reports = [each.report for each in made]
        timed = time_files(reports, open_run, self.golden.images, opt_batch=self.contract.input.opt_batch)
        return [replace(each, report=report) for each, report in zip(made, timed, strict=True)]

    def write(self, path: Path, precision: Literal["fp32", "fp16"]) -> None:
        """Write a file in floating point."""
        import onnx

        model = self.single if precision == "fp32" else self._half()
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))

    @cached_property
    def single(self) -> Any:
        """The graph in fp32, traced once for all files."""
        from byolt_export.onnx.export import onnx_graph

        metadata = {**self.options.properties(), CONTRACT_KEY: self.contract.model_dump_json()}
        return onnx_graph(self.module, output_name=self.contract.output.names, metadata=metadata, **self.how)

    def _half(self) -> Any:
        """The graph in fp16, but for what does not fit it on the calibration images."""
        images = self.images.calibration
        if images is None or not len(images):
            return _to_half(self.single)
        return Fp16(self.single, _to_half, images, self._shown, self.on_log).fitted()

    @property
    def _shown(self) -> int:
        """Images that the proof looks for neighbours among; 0 where it asks for classes."""
        if self.contract.classes:
            return 0
        return len(self.images.golden) + (0 if self.images.gallery is None else len(self.images.gallery))

    def _quantize(self, path: Path, placement: Placement | None) -> Calibration | None:
        """Write an INT8 file: what of it is not INT8 is fp16 for TensorRT, and fp32 for a CPU."""
        how: Any = {"choice": self.options.int8, "least_share": self.options.least_share, "tune": self.tune}
        if placement in ("cpu", "openvino"):
            return self.int8.for_cpu(path, placement, **how)
        return self.int8.for_tensorrt(_to_half(self.int8.calibrated.model), path, **how)

    @cached_property
    def int8(self) -> Int8:
        """The encoder calibrated, once for all INT8 files."""
        assert self.images.calibration is not None
        self.on_log(f"calibrating INT8 with {len(self.images.calibration)} images, most of which decide how much it is")
        how: Any = {"gallery": self._shown, "on_log": self.on_log}
        return Int8.of(self.single, self.images.calibration, self.images.calibration_source, **how)

    def _placements(self, precision: Precision) -> tuple[Placement | None, ...]:
        """The engines that a precision has a file of its own for."""
        if precision != "int8":
            return (None,)
        return ("tensorrt", "cpu", "openvino") if self.options.openvino else ("tensorrt", "cpu")

    @property
    def tune(self) -> Tune | None:
        """Lets a file in INT8 learn, each in its part of the minutes; ``None`` where that is not asked for."""
        if self.options.int8 != "tuned":
            return None
        from byolt_export.distill.tune import tune

        images = self.images.tuning if self.images.tuning is not None else self.int8.calibrating
        minutes = self.options.minutes / len(self._placements("int8"))

        def part_of_minutes(placed: Any, encoder: Any, part: float) -> Any:
            return tune(placed, encoder, images, minutes=part * minutes, on_log=self.on_log)

        return part_of_minutes


def _to_half(model: Any, full: Set[str] = frozenset()) -> Any:
    """A graph in fp16, but for what resizes frames, and for what reads or gives a tensor of ``full``."""
    from byolt_export.onnx.half_precision import to_half
    from byolt_export.onnx.preprocessing import RESIZING

    return to_half(model, full={*full, *RESIZING})


def _output(options: BundleOptions, classes: Sequence[str], dim: int, maps: Maps) -> Output:
    """What comes out: (N, ``dim``), pooled from ``maps`` where there are any."""
    try:
        return Output(
            name="logits" if classes else options.output,
            dim=dim,
            normalized=options.normalize,
            maps=tuple(Features(name=name, shape=values.shape[1:]) for name, values in maps.items()),
        )
    except ValidationError as error:
        raise InputError(f"export: {first_fault(error)}") from error


def _contract(pixels: Input, options: BundleOptions, classes: Sequence[str], output: Output) -> Contract:
    try:
        return Contract(
            input=pixels,
            output=output,
            classes=tuple(classes),
            recipe_hash=options.recipe_hash,
        )
    except ValidationError as error:
        raise InputError(f"export: {first_fault(error)}") from error


def _gallery(
    images: ProofImages, outputs_of: Callable[[Images], Outputs], on_log: Callable[[str], None]
) -> Gallery | None:
    if images.gallery is None:
        return None
    labelled = images.gallery_labels is not None and images.queries is not None
    queries = images.queries if labelled else None
    asked = "" if queries is None else f" and {len(queries)} queries"
    on_log(f"PyTorch's outputs of {len(images.gallery)} gallery images{asked}")
    return Gallery(
        images.gallery,
        outputs_of(images.gallery),
        images.gallery_labels,
        queries,
        None if queries is None else outputs_of(queries),
        images.query_labels if labelled else None,
    )
