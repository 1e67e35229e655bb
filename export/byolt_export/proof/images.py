"""Which images a bundle is made and proven with; no image is in two of the sets."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from byolt_export.arrays import Frames, Images, Labels
from byolt_export.bundle.image_input import Input
from byolt_export.bundle.manifest import Precision
from byolt_export.errors import InputError
from byolt_export.runtime.resize import to_inputs

LEAST_IMAGES = 32
"""Fewest images that INT8 is calibrated on."""
LEAST_DECIDING = 128
"""Fewest images that tell whether an fp16 file keeps enough neighbours: of fewer it should keep all."""
_LEAST_GOLDEN, _MOST_GOLDEN = 8, 128
_MOST_GALLERY = 10_000
_LEAST_CALIBRATION, _MOST_CALIBRATION, _CALIBRATION_PIXELS = 512, 4096, 4096 * 64 * 64


@dataclass(frozen=True)
class ProofImages:
    """Images as they go into the graph, (N, H, W, C), that a bundle is made and proven with.

    ``golden`` (8 or more) travels in the bundle, and ``golden_kind`` says whether these are the user's own. Neighbours
    are looked for among up to 10,000 of ``gallery``; with labels, ``queries`` measure the task. INT8 scales come from
    ``calibration``, which decide how much becomes INT8 and fp16 too (left out, an fp16 file is fp16 throughout); it
    learns from ``tuning``, where that is asked for (left out, from those that scales are found on). Nothing is measured
    on these.
    """

    golden: Images
    golden_kind: Literal["dataset", "synthetic"]
    golden_labels: Labels | None = None
    gallery: Images | None = None
    gallery_labels: Labels | None = None
    queries: Images | None = None
    query_labels: Labels | None = None
    calibration: Images | None = None
    calibration_source: str = ""
    tuning: Images | None = None


def image_digest(image: Images) -> bytes:
    """By which images that are the same to the last pixel (H, W, 3) are known."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def calibration_taken(images: int, pixels: Input, precisions: Collection[Precision], wanted: int | None = None) -> int:
    """Of so many images, how many calibrate INT8 and decide on fp16: a quarter, as far as that many are ``wanted``.

    Left out, 4,096 to 512 are wanted, by their size: a few find INT8's scales, the others decide how much of the
    encoder becomes either, for which each is run several times. INT8 needs 32; for fp16 alone fewer than 128 would tell
    nothing, and are better measured on.
    """
    quarter, (height, width, _) = images // 4, pixels.shape
    if "int8" in precisions:
        quarter = max(LEAST_IMAGES, quarter)
    elif "fp16" not in precisions or quarter < LEAST_DECIDING:
        return 0
    by_size = int(np.clip(_CALIBRATION_PIXELS // (height * width), _LEAST_CALIBRATION, _MOST_CALIBRATION))
    return min(wanted or by_size, quarter)


def choose_images(frames: Frames, pixels: Input, precisions: Collection[Precision]) -> ProofImages:
    """Golden images, calibration images and a gallery out of one set, drawn by a fixed seed.

    Of N different images a quarter, 8 to 128, are golden; ``calibration_taken`` of the others calibrate INT8 and decide
    on fp16; up to 10,000 of the rest are the gallery.

    Args:
        frames: uint8 frames of any size, made into inputs as the device does.
        pixels: What goes in.
        precisions: Files that are made.

    Raises:
        InputError: A frame has another type or shape, or the images are too few.
    """
    images = to_inputs(frames, pixels)
    different = list({image_digest(image): number for number, image in enumerate(images)}.values())
    calibration = calibration_taken(len(different), pixels, precisions)
    least_calibration = LEAST_IMAGES if "int8" in precisions else 0
    least = _LEAST_GOLDEN + least_calibration
    if len(different) < least:
        raise InputError(f"{len(different)} different images are too few to prove a bundle: give at least {least}")
    order = np.random.default_rng(0).permutation(different)
    golden = min(_MOST_GOLDEN, max(_LEAST_GOLDEN, len(order) // 4), len(order) - least_calibration)
    rest = order[golden + calibration :][:_MOST_GALLERY]
    return ProofImages(
        golden=images[order[:golden]],
        golden_kind="dataset",
        gallery=images[rest] if len(rest) else None,
        calibration=images[order[golden : golden + calibration]] if calibration else None,
        calibration_source="drawn from the images given",
    )


def check_images(shown: ProofImages, pixels: Input) -> None:
    """Refuse images that do not fit the graph or one another.

    Raises:
        InputError: An image has another type or size, golden images are too few, or a calibration image is measured.
    """
    measured = {"golden": shown.golden, "gallery": shown.gallery, "queries": shown.queries}
    used = {"calibration": shown.calibration, "tuning": shown.tuning}
    if shown.tuning is not None and not len(shown.tuning):
        raise InputError("no images to tune on: leave tuning out, or give some")
    for what, images in (measured | used).items():
        if images is None:
            continue
        if images.dtype != pixels.dtype or images.ndim != 4 or images.shape[1:] != pixels.shape:
            wanted = ", ".join(map(str, pixels.shape))
            raise InputError(f"{what} images must be {pixels.dtype} (N, {wanted}), got {images.dtype} {images.shape}")
        if images.size and images.max() > pixels.white:
            raise InputError(
                f"{what} images hold {images.max()}, and a bit_depth of {pixels.bit_depth} ends at {pixels.white}"
            )
    labels = shown.golden_labels
    if len(shown.golden) < _LEAST_GOLDEN or (labels is not None and len(labels) != len(shown.golden)):
        raise InputError(
            f"{len(shown.golden)} golden images: at least {_LEAST_GOLDEN} are needed, with a label each or none"
        )
    for use, some in used.items():
        seen = set() if some is None else {image_digest(image) for image in some}
        decide = {"calibration": shown.calibration} if use == "tuning" else {}  # They say whether it is nearer.
        for what, images in (measured | decide).items():
            if seen and images is not None and not seen.isdisjoint(map(image_digest, images)):
                raise InputError(f"an image of the {use} is among the {what} images: measure on others")
