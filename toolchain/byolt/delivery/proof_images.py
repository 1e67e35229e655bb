"""Which images of a run a bundle is made and proven with."""

import math
from collections.abc import Callable, Collection

import numpy as np

from byolt.data import ImageStore, Splits
from byolt.data.source import ImageSource, Labels, Pixels
from byolt.data.synthetic import SyntheticSource
from byolt.evaluation.evaluate import evaluation_store
from byolt.recipe.schema import Recipe
from byolt_export.bundle.image_input import Input
from byolt_export.bundle.manifest import Precision
from byolt_export.errors import InputError
from byolt_export.proof.images import ProofImages, calibration_taken, image_digest

_TUNING_IMAGES = 4096
_EVIDENCE_BYTES = 2**30  # Most that one set of images may take: whole camera frames are large.


def gather_proof_images(
    recipe: Recipe,
    pixels: Input,
    *,
    splits: Splits,
    precisions: Collection[Precision],
    tuned: bool = False,
    labelled: bool,
) -> ProofImages:
    """Images of a run that a bundle is made and proven with, none of them in two sets.

    Golden images and queries are held-out images where there are labels, else images it learned from; the gallery that
    neighbours are looked for in is of images it learned from, and so are the calibration images.

    Args:
        recipe: The run's.
        pixels: What comes in: squares, or whole camera frames.
        splits: The run's images.
        precisions: Files that are made: INT8 is calibrated on some images, which decide on fp16 too.
        tuned: Whether INT8 shall learn from some as well.
        labelled: Whether the classes of the images are those of the task.

    Raises:
        InputError: The images are gone, or are no frames of the camera that ``pixels`` names.
    """
    export, seed = recipe.export, recipe.seed
    learn, train, test = (
        None if source is None else _Reader(source, recipe, pixels)
        for source in (splits.learn, splits.train, splits.test)
    )
    assert learn is not None
    held_out, gallery = test or learn, train or learn
    seen: set[bytes] = set()
    if export.golden == "synthetic":
        golden, golden_labels = _drawn(export.golden_images, pixels), None
    else:
        golden, golden_labels = held_out.take(export.golden_images, seed, seen)
    queries, query_labels = test.take(export.query_images, seed + 1, seen) if test and labelled else (None, None)
    # Of few images most are left to be measured on.
    most = calibration_taken(learn.size, pixels, precisions, export.calibration_images)
    calibration = learn.take(most, seed + 2, seen)[0] if most else None
    tuning = learn.take(min(_TUNING_IMAGES, learn.size // 4), seed + 4, seen)[0] if tuned else None
    crowd, crowd_labels = gallery.take(export.gallery_images, seed + 3, seen)
    return ProofImages(
        golden=golden,
        golden_kind=export.golden,
        golden_labels=golden_labels if labelled and test else None,
        gallery=crowd if len(crowd) else None,
        gallery_labels=crowd_labels if labelled else None,
        queries=queries if queries is not None and len(queries) else None,
        query_labels=query_labels,
        calibration=calibration,
        calibration_source=f"{splits.learn.name}, drawn by seed {seed + 2}",
        tuning=tuning if tuning is not None and len(tuning) else None,
    )


class _Reader:
    """Images of a source as they go into the graph: squares, or with ``export.camera_px`` whole frames."""

    def __init__(self, source: ImageSource, recipe: Recipe, pixels: Input) -> None:
        store = evaluation_store(source, recipe)
        self.labels, self.size, self._store, self._pixels = store.labels, len(store), store, pixels
        self._read: Callable[[Labels], Pixels] = store.batch
        self._camera_px = recipe.export.camera_px
        if self._camera_px is not None:
            self._read = self._frames
        self._most = _EVIDENCE_BYTES // math.prod(pixels.tensor_shape)
        self._at_once = max(1, min(256, self._most // 4))

    def take(self, wanted: int, seed: int, seen: set[bytes]) -> tuple[Pixels, Labels | None]:
        """At most ``wanted`` images in an order drawn by ``seed``, none that was ``seen``, which they are added to."""
        order = np.random.default_rng(seed).permutation(self.size)
        chosen: list[int] = []
        parts: list[Pixels] = []
        wanted = min(wanted, self._most)
        for start in range(0, len(order), self._at_once):
            if len(chosen) >= wanted:
                break
            rows = order[start : start + self._at_once]
            images = self._batch(rows)
            fresh = []
            for k, image in enumerate(images):
                digest = image_digest(image)
                if digest not in seen and len(chosen) < wanted:
                    seen.add(digest)
                    chosen.append(int(rows[k]))
                    fresh.append(k)
            parts.append(images[fresh])
        taken = np.concatenate(parts) if parts else self._batch(order[:0])
        return taken, None if self.labels is None else self.labels[np.array(chosen, dtype=np.int64)]

    def _batch(self, rows: Labels) -> Pixels:
        return with_channels(self._read(rows), self._pixels.channels, self._store, rows)

    def _frames(self, rows: Labels) -> Pixels:
        frames = [self._store.read_whole(int(row)) for row in rows]
        for row, frame in zip(rows, frames, strict=True):
            if frame.shape[:2] != self._camera_px:
                (height, width), (high, wide) = self._camera_px or (0, 0), frame.shape[:2]
                raise InputError(
                    f"{self._store.path(int(row))} is {wide} x {high} px, but export.camera_px says that frames of "
                    f"{width} x {height} px come in: prove it on a folder of such frames, or leave camera_px out"
                )
        return np.stack(frames) if frames else np.zeros((0, *self._pixels.shape), self._pixels.dtype)


def with_channels(images: Pixels, channels: int, store: ImageStore, rows: Labels) -> Pixels:
    """Images (N, H, W, C), ``rows`` of a store, with so many channels: one of three that are equal, or three of one.

    Raises:
        InputError: One channel is wanted of a colour image.
    """
    if channels == 3:
        return np.repeat(images, 3 // images.shape[-1], axis=-1)
    colour = (images != images[..., :1]).any(axis=(1, 2, 3))
    if colour.any():
        path = store.path(int(rows[colour.argmax()]))
        raise InputError(f"{path} is colour, and one channel is for grey images: leave export.channels out")
    return images[..., :1]


def _drawn(wanted: int, pixels: Input) -> Pixels:
    """Synthetic images, so that none of the user's leaves; of grey ones the green channel, white as white."""
    height, width, channels = pixels.shape
    side = max(height, width)
    source = SyntheticSource("test", wanted, side)
    images = np.stack([source.read(i)[:height, :width] for i in range(wanted)])
    if channels == 1:
        images = images[..., 1:2]
    return images if pixels.dtype == "uint8" else (images.astype(np.uint32) * pixels.white // 255).astype(pixels.dtype)
