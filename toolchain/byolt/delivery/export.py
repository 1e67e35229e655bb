"""From a run to what leaves it: the bundle, and embeddings of a folder."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt.data import FolderSource, ImageStore
from byolt.delivery.proof_images import gather_evidence
from byolt.evaluation.downstream import load_classifier
from byolt.evaluation.evaluate import embed_store, evaluation_store, learned_encoder
from byolt.recipe.data import Data
from byolt.recipe.load import with_overrides
from byolt.recipe.optim import Schedule
from byolt.recipe.schema import Recipe
from byolt.run import Run, open_run
from byolt_export import BundleOptions, build_bundle
from byolt_export.bundle.folder import MANIFEST, PAGE, read_manifest
from byolt_export.bundle.golden import read_golden
from byolt_export.bundle.manifest import Precision
from byolt_export.errors import InputError, MissingPart
from byolt_export.proof.page import write_page
from byolt_export.proof.report import Report
from byolt_export.proof.verify import verify_bundle, verify_engines
from byolt_export.runtime.onnx_runner import OnnxRunner
from byolt_export.tensorrt.engines import add_engines, choose_targets
from byolt_export.tensorrt.flavour import Flavour, Target


def export_run(
    run: Run,
    *,
    classifier: bool = False,
    precisions: Sequence[Precision] = ("fp32",),
    targets: Sequence[str] | None = None,
    bisects: bool = False,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Report, MissingPart | None]:
    """Deliver a run's encoder as the bundle ``<run>/export``, or its classifier as ``<run>/export-classifier``.

    With ``targets`` TensorRT engines are built too, of the files that passed; none of them named, those that the
    TensorRT at hand builds first.

    Returns:
        What was proven; and where a TensorRT is missing, what to say of the engines that the bundle then lacks.

    Raises:
        InputError: The run has no encoder or classifier yet, it cannot be exported, or a target cannot be served.
        MissingPart: onnx or onnxruntime is not installed.
    """
    recipe = with_overrides(run.recipe, overrides)
    order, missing = _order(targets, precisions)
    classes: tuple[str, ...] = ()
    module = learned_encoder(run)
    if classifier:
        module, classes = load_classifier(run)
    bundle = run.classifier_bundle if classifier else run.bundle
    options = replace(
        bundle_options(recipe),
        normalize=recipe.export.normalize and not classifier,
        recipe_hash=run.hash,
        metadata={"byolt.backbone": recipe.model.backbone, "byolt.recipe": recipe.name},
        bisect=bisects,
    )
    size_px = recipe.data.image_size_px
    pixels = options.input_of(size_px)
    say("reading images")
    images = gather_evidence(recipe, pixels, calibrated="int8" in precisions, labelled=not classifier)
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
        return report, MissingPart(f"{bundle} is complete but for its engines: {missing}")
    passed = [file.precision for file in report.files if file.parity.verdict == "passed"]
    if order is None or not passed:
        return report, None
    say(f"building engines with {order[0]}")
    add_engines(
        bundle,
        *order,
        precisions=passed,
        workspace_mib=recipe.export.workspace_mib,
        cache_dir=recipe.data.cache_dir / "timings",
    )
    report = replace(report, files=(*report.files, *verify_engines(bundle)))
    manifest = read_manifest(bundle)
    write_page(bundle / PAGE, report, manifest, read_golden(bundle, manifest))
    return report, None


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
        opt_batch=export.opt_batch,
        max_batch=export.max_batch,
    )


def embed_folder(source: Path, folder: Path, output: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Embeddings of every readable image below ``folder``, by a run's encoder or a bundle's ONNX file.

    Writes ``embeddings`` (N, D) float32 and ``files`` (N,) to ``output``, an ``.npz`` file. A bundle is verified first.

    Raises:
        InputError: Source, folder or an override do not fit, the bundle does not pass, or it holds a classifier.
    """
    if output.suffix != ".npz":
        raise InputError(f"{output}: embeddings are written as .npz; name a file that ends in .npz")
    if (source / MANIFEST).is_file():
        recipe, function = _of_bundle(source, overrides)
    else:
        run = open_run(source)
        recipe = with_overrides(run.recipe, overrides)
        encoder = learned_encoder(run)

        def function(images: ImageStore) -> npt.NDArray[np.float32]:
            return embed_store(encoder, images, recipe).numpy()

    images = evaluation_store(FolderSource(folder), recipe)
    embeddings = function(images)
    np.savez_compressed(output, embeddings=embeddings, files=np.array([images.path(i) for i in range(len(images))]))
    return {"images": len(images), "dim": embeddings.shape[1], "output": str(output)}


Function = Callable[[ImageStore], npt.NDArray[np.float32]]


def _of_bundle(bundle: Path, overrides: Sequence[str]) -> tuple[Recipe, Function]:
    """A recipe that says how a bundle's images are read, and the function from them to embeddings."""
    manifest = read_manifest(bundle)
    contract = manifest.contract.input
    if manifest.contract.output.name != "embedding":
        raise InputError(
            f"{bundle} holds a classifier, whose output are logits and no embeddings; give the encoder's bundle "
            "(byolt export without --classifier) or the run"
        )
    report = verify_bundle(bundle)
    if report.verdict != "passed":
        raise InputError(f"{bundle} does not pass here ({report.reason}); see byolt verify {bundle}")
    recipe = Recipe(
        name="bundle",
        data=Data(name="synthetic", image_size_px=contract.size_px, resize=contract.resize),
        schedule=Schedule(epochs=1, warmup_epochs=0),
    )
    if contract.camera_px is not None:
        raise InputError(f"{bundle} takes whole frames of one camera: embed with the run itself")
    run = OnnxRunner(bundle / manifest.files[0].name)

    def function(images: ImageStore) -> npt.NDArray[np.float32]:
        order, step = np.arange(len(images)), contract.max_batch
        return np.concatenate([run(images.batch(order[k : k + step])) for k in range(0, len(order), step)])

    return with_overrides(recipe, overrides), function
