"""How far are outputs from other outputs? Every measure of a parity verdict; numpy alone.

Axes: N images, D output features, Q queries, G gallery images, C classes. ``reference`` is PyTorch's output,
``candidate`` a delivered file's.
"""

import numpy as np
import numpy.typing as npt

from byolt_export.arrays import Outputs
from byolt_export.proof.report import Measures

QUERIES, GALLERY = 1_000, 10_000
# Neighbours closer together than this in cosine are one rank: float32 embeddings cannot tell them apart.
_TIE = 1e-6
TINY = float(np.finfo(np.float32).tiny)
# Bins of the histogram of relative L2: four a decade. What lies beyond the ends is counted in the first or last bin.
HISTOGRAM_EDGES: tuple[float, ...] = tuple(10 ** (exponent / 4) for exponent in range(-32, 5))


def relative_l2(reference: Outputs, candidate: Outputs) -> npt.NDArray[np.float64]:
    """``|c - r| / |r|`` of each row of the candidate, in float64; its row n is of image n modulo N.

    No row is divided by less than the median length of the reference's rows: logits that are nearly 0 have no accuracy
    of their own.
    """
    r, c = reference.astype(np.float64), candidate.astype(np.float64)
    length, rows = np.linalg.norm(r, axis=1), np.arange(len(c)) % len(r)
    least = np.maximum(length, max(float(np.median(length)), TINY))
    error: npt.NDArray[np.float64] = np.linalg.norm(c - r[rows], axis=1) / least[rows]
    return error


def spread(outputs: Outputs) -> float:
    """How far the outputs of different images lie apart: median distance from their median, over their median length.

    1 where they have nothing in common, 0 where all are one point. By medians, for a few images far from a crowd in
    one point do not make it more.
    """
    rows = outputs.astype(np.float64)
    apart = np.median(np.linalg.norm(rows - np.median(rows, axis=0), axis=1))
    return float(apart / np.maximum(np.median(np.linalg.norm(rows, axis=1)), TINY))


def error_histogram(error: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """How many of the errors (N,) lie in each bin of ``HISTOGRAM_EDGES``, the lower edge in the bin; they sum to N."""
    bins = np.searchsorted(HISTOGRAM_EDGES[1:-1], error, side="right")
    return tuple(np.bincount(bins, minlength=len(HISTOGRAM_EDGES) - 1).tolist())


def centred_cosine(reference: Outputs, candidate: Outputs) -> npt.NDArray[np.float64]:
    """Cosine of each row, (N,), after the reference's mean over N was taken off both.

    Embeddings share a large mean, so the plain cosine of two different images is already high. A row nearer to the mean
    than the median one has hardly a direction: it counts no worse than its distance from the candidate's would at the
    median length. Two rows that are both the mean agree: 1.
    """
    mean = reference.mean(axis=0, dtype=np.float64)
    r, c = reference - mean, candidate - mean
    r_norm, c_norm = np.linalg.norm(r, axis=1), np.linalg.norm(c, axis=1)
    cosine: npt.NDArray[np.float64] = (r * c).sum(axis=1) / np.maximum(r_norm * c_norm, TINY)
    median = max(float(np.median(r_norm)), TINY)
    at_median = median / np.hypot(median, np.linalg.norm(c - r, axis=1))
    return np.where(r_norm < median, np.maximum(cosine, at_median), cosine)


def neighbour_overlap(reference: Outputs, candidate: Outputs, k: int, *, queries: int = QUERIES) -> float | None:
    """Share of the candidate's k nearest neighbours that are nearest neighbours of the reference too.

    See ``neighbour_overlaps``.
    """
    return neighbour_overlaps(reference, candidate, (k,), queries=queries)[0]


def neighbour_overlaps(
    reference: Outputs, candidate: Outputs, ks: tuple[int, ...], *, queries: int = QUERIES
) -> list[float | None]:
    """For each k the share of the candidate's k nearest neighbours that are nearest neighbours of the reference too.

    Neighbours by cosine among the first 10,000 rows, for up to ``queries`` queries spread evenly over them, each left
    out of its own neighbours. A neighbour as near as the reference's k-th, to 1e-6, counts: the order of ties says
    nothing. ``None`` when a query has no more than k others, for then every neighbour agrees.
    """
    rows = min(len(reference), GALLERY)
    if rows - 1 <= min(ks):
        return [None] * len(ks)
    asked = np.arange(min(rows, queries)) * rows // min(rows, queries)
    expected, given = _similarities(reference[:rows], asked), _similarities(candidate[:rows], asked)
    overlaps: list[float | None] = []
    for k in ks:
        if rows - 1 <= k:
            overlaps.append(None)
            continue
        kth = np.partition(expected, -k, axis=1)[:, -k, None]
        found = np.argpartition(given, -k, axis=1)[:, -k:]
        overlaps.append(float((np.take_along_axis(expected, found, axis=1) >= kth - _TIE).mean()))
    return overlaps


def _similarities(outputs: Outputs, queries: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Cosines (Q, N) of the queries with every row; -inf with themselves."""
    rows = outputs.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY)
    cosines: npt.NDArray[np.float64] = rows[queries] @ rows.T
    cosines[np.arange(len(queries)), queries] = -np.inf
    return cosines


def top_1_agreement(reference: Outputs, candidate: Outputs) -> float:
    """Share of rows whose largest candidate logit is (one of) the reference's largest.

    Logits closer together than 1e-6 of the row's largest in size are one rank: float32 cannot tell them apart.
    """
    rows = reference.astype(np.float64)
    chosen = np.take_along_axis(rows, candidate.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float((chosen >= rows.max(axis=1) - _TIE * np.abs(rows).max(axis=1)).mean())


def measure(reference: Outputs, candidate: Outputs, *, logits: bool = False) -> Measures:
    """Every measure of candidate (N, D) against reference (N, D); neighbours of an embedding, top-1 of logits."""
    finite = bool(np.isfinite(candidate).all())
    # A NaN must not hide the worst image or reach the JSON file; `finite` alone decides then.
    candidate = np.nan_to_num(candidate, nan=0.0, posinf=0.0, neginf=0.0)
    error, cosine = relative_l2(reference, candidate), centred_cosine(reference, candidate)
    at_1, at_10 = (None, None) if logits else neighbour_overlaps(reference, candidate, (1, 10))
    return Measures(
        images=len(reference),
        finite=finite,
        relative_l2_mean=float(error.mean()),
        relative_l2_worst=float(error.max()),
        relative_l2_histogram=error_histogram(error),
        worst_image=int(error.argmax()),
        centred_cosine_mean=float(cosine.mean()),
        centred_cosine_worst=float(cosine.min()),
        overlap_at_1=at_1,
        overlap_at_10=at_10,
        top_1_agreement=top_1_agreement(reference, candidate) if logits else None,
    )
