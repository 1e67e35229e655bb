"""From a run to its bundle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from byolt.data.known_splits import open_run_splits
from byolt.delivery.proof_images import gather_proof_images
from byolt.evaluation.finetune_run import load_classifier
from byolt.evaluation.norm_statistics import warn_of_lag
from byolt.evaluation.outcome import outcome_of
from byolt.networks.feature_map import FeatureMap
from byolt.preflight import check_finished, require
from byolt.recipe.load import Overrides, with_overrides
from byolt.recipe.schema import Recipe
from byolt.run import Run, open_run
from byolt_export import BundleOptions, build_bundle
from byolt_export.bundle.folder import PAGE, read_manifest
from byolt_export.bundle.golden import read_golden
from byolt_export.bundle.manifest import Precision
from byolt_export.errors import InputError, MissingPart
from byolt_export.proof.made import Made
from byolt_export.proof.page import write_page
from byolt_export.proof.report import Report
from byolt_export.proof.verify import verify_engines
from byolt_export.quantize.int8 import Choice
from byolt_export.runtime.openvino_runner import require_openvino
from byolt_export.tensorrt.add_engines import add_engines, choose_targets
from byolt_export.tensorrt.flavour import Flavour, Target


@dataclass(frozen=True)
class Exported:
    """A bundle, and what was proven of it."""

    path: Path
    report: Report
    """``verdict``, ``reason``, and the measures of each file."""
    missing: MissingPart | None = None
    """Where a TensorRT is missing: what to say of the engines that the bundle then lacks."""


def export(
    run: Run | str | Path,
    *,
    classifier: bool = False,
    precisions: Sequence[Precision] = ("fp32",),
    int8: Choice = "plain",
    targets: Sequence[str] | None = None,
    bisect: bool = False,
    overrides: Overrides = (),
    on_log: Callable[[str], None] | None = None,
) -> Exported:
    """Deliver a run's encoder as the bundle ``<run>/export``, or its classifier as ``<run>/export-classifier``.

    A file that is not the same function as the encoder is no error here: ``report.verdict`` says so.

    Of an earlier bundle there, files of other precisions and engines stay where they are of the same encoder; a line of
    ``on_log`` names what stays, another one what does not.

    Args:
        run: A finished run, or its folder.
        classifier: Deliver the fine-tuned classifier.
        precisions: Files to make, of ``fp32``, ``fp16`` and ``int8``.
        int8: How much becomes INT8: as much as keeps neighbours (``fastest``), the least (``safest``), or what is fast
            enough on the engine (``plain``); ``tuned`` learns besides, for ``export.int8_minutes`` minutes. See
            ``BundleOptions``.
        targets: GPUs to build TensorRT engines for, of the files that passed; with none named, those that the TensorRT
            at hand builds first. Left out, no engine is built.
        bisect: Compare tensors on the way too; the report names the first node whose error jumps.
        overrides: Of machine keys.
        on_log: Called with a line on what is being done.

    Raises:
        InputError: The run has no encoder or classifier yet, it cannot be exported, a target cannot be served, or
            ``int8`` is asked for without INT8.
        MissingPart: onnx, onnxruntime, or an OpenVINO that is asked for is not installed.
    """
    run, say = open_run(run), on_log or (lambda line: None)
    if int8 != "plain" and "int8" not in precisions:
        raise InputError(f"how much becomes INT8 ({int8}) is asked for, but no INT8: add int8 to the precisions")
    recipe = with_overrides(run.recipe, overrides)
    check_finished(run, recipe)
    require("onnx", "onnxscript", "onnxruntime")
    openvino = recipe.export.openvino and "int8" in precisions
    if openvino:
        require_openvino()
    order, missing = _order(targets, precisions)
    module, classes = load_classifier(run) if classifier else (run.encoder(), ())
    bundle, size_px = run.classifier_bundle if classifier else run.bundle, recipe.data.image_size_px
    if recipe.export.output == "features" and not classifier:
        if targets is not None:
            raise InputError("export.output: engines of byolt give one vector an image; leave --trt out for features")
        module = FeatureMap(module, size_px)
    warn_of_lag(run)
    if not classifier and (outcome := outcome_of(run)) is not None and not outcome.good:
        say(f"warning: {run.path}: {outcome.sentence}")
    options = replace(_options(run, recipe, classifier), bisect=bisect, int8=int8, openvino=openvino)
    say("reading images")
    images = gather_proof_images(
        recipe,
        options.input_of(size_px),
        splits=open_run_splits(run, recipe),
        precisions=precisions,
        tuned=int8 == "tuned",
        labelled=not classifier,
    )
    report = build_bundle(
        module,
        bundle,
        images=images,
        size_px=size_px,
        precisions=precisions,
        classes=classes,
        options=options,
        on_log=say,
    )
    if missing is not None:
        return Exported(bundle, report, MissingPart(f"{bundle} is complete but for its engines: {missing}"))
    passed = [f.precision for f in report.files if f.parity.verdict == "passed" and f.precision in precisions]
    if order is None or not passed:
        return Exported(bundle, report)
    say(f"building engines with {order[0]}")
    return Exported(bundle, _with_engines(bundle, order, report, passed, recipe))


def _options(run: Run, recipe: Recipe, classifier: bool) -> BundleOptions:
    """The recipe's, and what the bundle says of the run."""
    return replace(
        bundle_options(recipe),
        normalize=recipe.export.normalize and not classifier,
        recipe_hash=run.hash,
        run=run.path.absolute().name,
        metadata={"byolt.backbone": recipe.model.backbone, "byolt.recipe": recipe.name},
        minutes=recipe.export.int8_minutes,
        output="embedding" if classifier else recipe.export.output,
    )


def _with_engines(
    bundle: Path,
    order: tuple[Flavour, tuple[Target, ...]],
    report: Report,
    passed: Sequence[Precision],
    recipe: Recipe,
) -> Report:
    """Build the engines of the files that passed; the report with their verdicts, and with those that were there."""
    timings = recipe.data.cache_dir / "timings"
    add_engines(bundle, *order, precisions=passed, workspace_mib=recipe.export.workspace_mib, cache_dir=timings)
    onnx = (file for file in report.files if not file.is_engine)
    report = replace(report, files=(*onnx, *verify_engines(bundle)))
    manifest = read_manifest(bundle)
    write_page(bundle / PAGE, report, manifest, read_golden(bundle, manifest), Made.here(bundle.absolute().parent.name))
    return report


def _order(
    targets: Sequence[str] | None, precisions: Sequence[str]
) -> tuple[tuple[Flavour, tuple[Target, ...]] | None, MissingPart | None]:
    """What to build engines with and for, or why it cannot be; a target that nothing serves is refused at once."""
    if targets is None:
        return None, None
    try:
        flavour, chosen = choose_targets(targets)
        for precision in precisions:
            flavour.check_precision(precision)
    except MissingPart as error:
        return None, error
    return (flavour, chosen), None


def bundle_options(recipe: Recipe) -> BundleOptions:
    """Normalisation, resize rule and batch sizes of a recipe's bundle."""
    export, data = recipe.export, recipe.data
    return BundleOptions(
        mean=data.mean,
        std=data.std,
        resize=data.resize,
        camera_px=export.camera_px,
        opt_batch=export.tuned_batch,
        max_batch=export.max_batch,
        channels=export.channels or (1 if data.is_deep else 3),
        bit_depth=data.bit_depth if data.is_deep and isinstance(data.bit_depth, int) else 8,
    )
