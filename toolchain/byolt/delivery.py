"""From a run to what leaves it: the bundle, and embeddings of a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt.data import FolderSource, ImageStore, open_splits, open_store
from byolt.data.synthetic import SyntheticSource
from byolt.evaluation.downstream import load_classifier
from byolt.evaluation.evaluate import embed_store, evaluation_store, learned_encoder
from byolt.recipe import recipe_hash, result_keys, with_overrides
from byolt.run import Run, open_run
from byolt.schema import Recipe
from byolt_export.bundle import MANIFEST, read_manifest
from byolt_export.deliver import build_bundle
from byolt_export.errors import InputError
from byolt_export.runtime import OnnxRunner
from byolt_export.verify import Report, verify_bundle

GALLERY_IMAGES = 10_000


def export_run(run: Run, *, classifier: bool, overrides: Sequence[str]) -> Report:
    """Deliver a run's encoder, or its fine-tuned classifier, as the bundle ``<run>/export``.

    Golden images are held-out images of the run where it has labels, else images it learned from; the gallery that
    neighbours are looked for in is of images it learned from.

    Raises:
        InputError: The run has no encoder or classifier yet, or it cannot be exported.
        MissingPart: onnx or onnxruntime is not installed.
    """
    recipe = with_overrides(run.recipe, overrides)
    classes: tuple[str, ...] = ()
    module = learned_encoder(run)
    if classifier:
        module, classes = load_classifier(run)
    splits = open_splits(recipe.data, recipe.seed)
    learned = evaluation_store(splits.learn, recipe)
    held_out = evaluation_store(splits.test, recipe) if splits.test is not None else learned
    golden, labels = _golden(held_out, recipe)
    return build_bundle(
        module,
        run.bundle,
        golden_images=golden,
        golden_kind=recipe.export.golden,
        labels=None if classifier else labels,
        gallery_images=learned.batch(_some(len(learned), GALLERY_IMAGES, recipe.seed + 1)),
        image_size_px=recipe.data.image_size_px,
        resize=recipe.data.resize,
        mean=recipe.data.mean,
        std=recipe.data.std,
        max_batch=recipe.export.max_batch,
        classes=classes,
        normalize=recipe.export.normalize and not classifier,
        recipe_hash=recipe_hash(result_keys(recipe), learned.fingerprint),
        metadata={"byolt.backbone": recipe.model.backbone, "byolt.recipe": recipe.name},
    )


def embed_folder(source: Path, folder: Path, output: Path) -> dict[str, Any]:
    """Embeddings of every readable image below ``folder``, by a run's encoder or a bundle's ONNX file.

    Writes ``embeddings`` (N, D) float32 and ``files`` (N,) to ``output``, an ``.npz`` file. A bundle is verified first.

    Raises:
        InputError: Source or folder do not fit, or the bundle does not pass.
    """
    if output.suffix != ".npz":
        raise InputError(f"{output}: embeddings are written as .npz; name a file that ends in .npz")
    if (source / MANIFEST).is_file():
        size_px, resize, function = _bundle_function(source)
        cache_dir, budget_gb, corrupt_limit = Path(".cache/byolt"), 8.0, 0.01
    else:
        run = open_run(source)
        recipe = run.recipe
        size_px, resize, function = recipe.data.image_size_px, recipe.data.resize, _run_function(run, recipe)
        cache_dir, budget_gb, corrupt_limit = (
            recipe.data.cache_dir,
            recipe.data.cache_budget_gb,
            recipe.data.corrupt_limit,
        )
    images = open_store(
        FolderSource(folder), size_px, resize, budget_gb=budget_gb, cache_dir=cache_dir, corrupt_limit=corrupt_limit
    )
    embeddings = function(images)
    np.savez_compressed(output, embeddings=embeddings, files=np.array([images.path(i) for i in range(len(images))]))
    return {"images": len(images), "dim": embeddings.shape[1], "output": str(output)}


Function = Callable[[ImageStore], npt.NDArray[np.float32]]


def _run_function(run: Run, recipe: Recipe) -> Function:
    encoder = learned_encoder(run)
    return lambda images: embed_store(encoder, images, recipe).numpy()


def _bundle_function(bundle: Path) -> tuple[int, Any, Function]:
    report = verify_bundle(bundle)
    if report.verdict != "passed":
        raise InputError(f"{bundle} does not pass here ({report.reason}); see byolt verify {bundle}")
    manifest = read_manifest(bundle)
    run, contract = OnnxRunner(bundle / manifest.files[0].name), manifest.contract.input

    def function(images: ImageStore) -> npt.NDArray[np.float32]:
        order, step = np.arange(len(images)), contract.max_batch
        return np.concatenate([run(images.batch(order[k : k + step])) for k in range(0, len(order), step)])

    return contract.size_px, contract.resize, function


def _golden(held_out: ImageStore, recipe: Recipe) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64] | None]:
    """Golden images and their labels: of the held-out images, or drawn, so that no image of the user's leaves."""
    wanted = recipe.export.golden_images
    if recipe.export.golden == "synthetic":
        drawn = SyntheticSource("test", wanted, recipe.data.image_size_px)
        return np.stack([drawn.read(i) for i in range(wanted)]), None
    chosen = _some(len(held_out), wanted, recipe.seed)
    labels = held_out.labels
    return held_out.batch(chosen), None if labels is None else labels[chosen]


def _some(images: int, wanted: int, seed: int) -> npt.NDArray[np.int64]:
    """At most ``wanted`` indices without order, drawn by ``seed``."""
    return np.random.default_rng(seed).permutation(images)[:wanted]
