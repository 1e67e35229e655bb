"""Whether an encoder in INT8 or fp16 keeps enough nearest neighbours to pass, found on images that no proof sees."""

from collections.abc import Callable

import numpy as np

from byolt_export.arrays import Outputs
from byolt_export.bundle.manifest import Precision
from byolt_export.proof.gates import GATES
from byolt_export.proof.measures import GALLERY, QUERIES, neighbour_overlap, relative_l2, top_1_agreement

CALIBRATED = 256
"""Images that scales and rounding are found on, half of them where there are fewer than twice as many."""
_QUERIES = 4 * QUERIES  # More than the proof asks: of the shares that are tried, the first by chance must not be taken.
_OF_WORST = 0.8  # Of the proof's limit for its worst image; among more images a worse one is found.


def keeps_enough(
    precision: Precision, reference: Outputs, outputs: Outputs, gallery: int, on_log: Callable[[str], None]
) -> bool:
    """Whether a file will keep the neighbours, or where ``gallery`` is 0 the classes, that its proof asks for, and no
    image will be as far off as its proof forbids.

    Args:
        precision: The file's.
        reference: What the encoder gives of the deciding images, (N, D).
        outputs: What the file gives of them, (N, D).
        gallery: Images that the proof will look for neighbours among; 0 where it asks for classes.
        on_log: Takes a line on what was found.
    """
    images = len(reference)
    if not np.isfinite(outputs).all():
        on_log(f"its outputs of {images} images are not finite")
        return False
    if not _enough_alike(precision, reference, outputs, gallery, on_log):
        return False
    worst, most = float(relative_l2(reference, outputs).max()), _OF_WORST * GATES[precision].relative_l2_worst_max
    if worst > most:
        on_log(f"relative L2 {worst:.2f} of the worst image, {most:.2f} wanted")
    return worst <= most


def _enough_alike(
    precision: Precision, reference: Outputs, outputs: Outputs, gallery: int, on_log: Callable[[str], None]
) -> bool:
    """The same of neighbours or classes alone."""
    images = len(reference)
    wanted = enough(precision, images, logits=not gallery)
    if not gallery:
        agree = top_1_agreement(reference, outputs)
        on_log(f"{agree:.1%} of {images} images keep their class, {wanted:.1%} wanted")
        return agree >= wanted
    found = expected_overlap(reference, outputs, gallery)
    if found is None:
        return True
    on_log(
        f"{found[0]:.1%} of nearest neighbours kept among {images} images, {found[1]:.1%} expected among "
        f"{max(images, gallery)}, {wanted:.1%} wanted"
    )
    return found[1] >= wanted


def enough(precision: Precision, images: int, *, logits: bool = False) -> float:
    """Neighbours, or classes of ``logits``, to keep or to expect: the proof's gate, and by a margin of two standard
    deviations of a share of so many queries at that gate more; of few images all.
    """
    gate = GATES[precision].top_1_agreement if logits else GATES[precision].overlap_at_1
    return min(1.0, gate + 2 * float(np.sqrt(gate * (1 - gate) / min(images, QUERIES))))


def expected_overlap(reference: Outputs, candidate: Outputs, gallery: int) -> tuple[float, float] | None:
    """Share of nearest neighbours kept among these images, and the one to expect among ``gallery`` images.

    Among more images neighbours lie closer together, and the same error loses more of them. Where images differ in d
    ways the loss grows as the d-th root of their number; d = 4 is taken (from 256 to 4,700 images, 2.1 times, one
    encoder lost 1.9 times as many for a CPU and 2.8 times as many for TensorRT).

    Args:
        reference: What the encoder gives, (N, D).
        candidate: What its INT8 or fp16 gives, (N, D).
        gallery: Images that the proof looks for neighbours among.

    Returns:
        Both shares, or ``None`` where every neighbour agrees because there are no others.
    """
    kept = neighbour_overlap(reference, candidate, 1, queries=_QUERIES)
    if kept is None:
        return None
    more = min(gallery, GALLERY) / min(len(reference), GALLERY)
    return kept, 1 - min(1.0, (1 - kept) * max(1.0, more) ** 0.25)
