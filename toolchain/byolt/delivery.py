"""From a run to what leaves it: the bundle, and embeddings of a folder."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from byolt.data import FolderSource, ImageStore, open_splits, open_store
from byolt.data.source import ImageSource, Labels, Pixels
from byolt.data.synthetic import SyntheticSource
from byolt.evaluation.downstream import load_classifier
from byolt.evaluation.evaluate import embed_store, evaluation_store, learned_encoder
from byolt.recipe import recipe_hash, result_keys, with_overrides
from byolt.run import Run, open_run
from byolt.schema import Recipe
from byolt_export.bundle import MANIFEST, read_manifest
from byolt_export.deliver import Evidence, build_bundle
from byolt_export.equip import add_engines, choose_targets
from byolt_export.errors import InputError, MissingPart
from byolt_export.flavour import Flavour, Target
from byolt_export.manifest import Input, first_fault
from byolt_export.runtime import OnnxRunner
from byolt_export.verify import Report, verify_bundle

_EVIDENCE_BYTES = 2**30  # Most that one set of images may take: whole camera frames are large.


def export_run(
    run: Run,
    *,
    classifier: bool = False,
    precisions: Sequence[str] = ("fp32",),
    targets: Sequence[str] | None = None,
    bisects: bool = False,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Deliver a run's encoder, or its fine-tuned classifier, as the bundle ``<run>/export``.

    Golden images and queries are held-out images of the run where it has labels, else images it learned from; the
    gallery that neighbours are looked for in is of images it learned from, and so are INT8's calibration images.

    With ``targets`` TensorRT engines are built too, of the files that passed; none of them named, those that the
    TensorRT at hand builds first. Without a TensorRT the bundle is complete but for its engines, and then it is told.

    Raises:
        InputError: The run has no encoder or classifier yet, it cannot be exported, or a target cannot be served.
        MissingPart: onnx, onnxruntime or, with ``targets``, TensorRT is not installed.
    """
    recipe = with_overrides(run.recipe, overrides)
    order, missing = _order(targets, precisions)
    classes: tuple[str, ...] = ()
    module = learned_encoder(run)
    if classifier:
        module, classes = load_classifier(run)
    say("reading images")
    evidence, fingerprint = _evidence(recipe, calibrated="int8" in precisions, labelled=not classifier)
    report = build_bundle(
        module,
        run.bundle,
        pixels=_pixels(recipe),
        evidence=evidence,
        precisions=precisions,
        classes=classes,
        normalize=recipe.export.normalize and not classifier,
        recipe_hash=recipe_hash(result_keys(recipe), fingerprint),
        metadata={"byolt.backbone": recipe.model.backbone, "byolt.recipe": recipe.name},
        bisects=bisects,
        say=say,
    )
    if missing is not None:
        raise MissingPart(f"{run.bundle} is complete but for its engines: {missing}") from missing
    passed = [file.precision for file in report.files if file.parity.verdict == "passed"]
    if order is None or not passed:
        return report
    say(f"building engines with {order[0]}")
    engines = add_engines(
        run.bundle,
        *order,
        precisions=passed,
        workspace_mib=recipe.export.workspace_mib,
        cache_dir=recipe.data.cache_dir / "timings",
    )
    return replace(report, files=(*report.files, *engines))


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


def _pixels(recipe: Recipe) -> Input:
    export, data = recipe.export, recipe.data
    try:
        return Input(
            size_px=data.image_size_px,
            camera_px=export.camera_px,
            resize=data.resize,
            opt_batch=min(export.opt_batch, export.max_batch),
            max_batch=export.max_batch,
            mean=data.mean,
            std=data.std,
        )
    except ValidationError as error:
        raise InputError(f"export: {first_fault(error)}") from error


def _evidence(recipe: Recipe, *, calibrated: bool, labelled: bool) -> tuple[Evidence, str]:
    """Images of the run for making and proving a bundle, none of them in two sets, and the images' fingerprint."""
    export, seed = recipe.export, recipe.seed
    splits = open_splits(recipe.data, seed)
    learn, train, test = (
        None if source is None else _Reader(source, recipe) for source in (splits.learn, splits.train, splits.test)
    )
    assert learn is not None
    held_out, gallery = test or learn, train or learn
    seen: set[bytes] = set()
    if export.golden == "synthetic":
        golden, golden_labels = _drawn(export.golden_images, _pixels(recipe)), None
    else:
        golden, golden_labels = held_out.take(export.golden_images, seed, seen)
    queries, query_labels = test.take(export.query_images, seed + 1, seen) if test and labelled else (None, None)
    calibration = learn.take(export.calibration_images, seed + 2, seen)[0] if calibrated else None
    crowd, crowd_labels = gallery.take(export.gallery_images, seed + 3, seen)
    evidence = Evidence(
        golden=golden,
        golden_kind=export.golden,
        golden_labels=golden_labels if labelled else None,
        gallery=crowd if len(crowd) else None,
        gallery_labels=crowd_labels if labelled else None,
        queries=queries if queries is not None and len(queries) else None,
        query_labels=query_labels,
        calibration=calibration,
        calibration_source=f"{splits.learn.name}, drawn by seed {seed + 2}",
    )
    return evidence, learn.fingerprint


class _Reader:
    """Images of a source as they go into the graph: squares, or with ``export.camera_px`` whole frames."""

    def __init__(self, source: ImageSource, recipe: Recipe) -> None:
        store = evaluation_store(source, recipe)
        self.fingerprint, self.labels, self.size = store.source.fingerprint, store.labels, len(store)
        self._batch: Callable[[Labels], Pixels] = store.batch
        self._camera_px, side = recipe.export.camera_px, recipe.data.image_size_px
        if self._camera_px is not None:
            self._batch, self.labels, self.size, self._source = self._frames, source.labels, len(source), source
        height, width = self._camera_px or (side, side)
        self._most = _EVIDENCE_BYTES // (height * width * 3)

    def take(self, wanted: int, seed: int, seen: set[bytes]) -> tuple[Pixels, Labels | None]:
        """At most ``wanted`` images in an order drawn by ``seed``, none that was ``seen``, which they are added to."""
        order, chosen, parts = np.random.default_rng(seed).permutation(self.size), [], []
        wanted = min(wanted, self._most)
        for start in range(0, len(order), 256):
            if len(chosen) >= wanted:
                break
            rows = order[start : start + 256]
            images = self._batch(rows)
            fresh = []
            for k, image in enumerate(images):
                digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
                if digest not in seen and len(chosen) < wanted:
                    seen.add(digest)
                    chosen.append(rows[k])
                    fresh.append(k)
            parts.append(images[fresh])
        taken = np.concatenate(parts) if parts else self._batch(order[:0])
        return taken, None if self.labels is None else self.labels[np.array(chosen, dtype=np.int64)]

    def _frames(self, rows: Labels) -> Pixels:
        frames = [self._source.read(int(row)) for row in rows]
        for row, frame in zip(rows, frames, strict=True):
            if frame.shape[:2] != self._camera_px:
                (height, width), (high, wide) = self._camera_px or (0, 0), frame.shape[:2]
                raise InputError(
                    f"{self._source.path(int(row))} is {wide} x {high} px, but export.camera_px says that frames of "
                    f"{width} x {height} px come in: prove it on a folder of such frames, or leave camera_px out"
                )
        return np.stack(frames) if frames else np.zeros((0, *(self._camera_px or (0, 0)), 3), np.uint8)


def _drawn(wanted: int, pixels: Input) -> Pixels:
    """Synthetic images, so that none of the user's leaves."""
    height, width, _ = pixels.shape
    side = max(height, width)
    source = SyntheticSource("test", wanted, side)
    return np.stack([source.read(i)[:height, :width] for i in range(wanted)])


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
    if contract.camera_px is not None:
        raise InputError(f"{bundle} takes whole frames of one camera; embed with the run itself")

    def function(images: ImageStore) -> npt.NDArray[np.float32]:
        order, step = np.arange(len(images)), contract.max_batch
        return np.concatenate([run(images.batch(order[k : k + step])) for k in range(0, len(order), step)])

    return contract.size_px, contract.resize, function
