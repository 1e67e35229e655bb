"""How far are outputs from other outputs? Every measure of a parity verdict; numpy alone.

Axes: N images, D output features, Q queries, G gallery images, C classes. ``reference`` is PyTorch's output,
``candidate`` a delivered file's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Outputs = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

QUERIES, GALLERY = 1_000, 10_000
KNN_K, KNN_TEMPERATURE = 20, 0.07
MARGIN = 0.01  # Accuracy that a delivered file may lose: one point.
# Neighbours closer together than this in cosine are one rank: float32 embeddings cannot tell them apart.
_TIE = 1e-6
_TINY = float(np.finfo(np.float32).tiny)
# Bins of the histogram of relative L2: four a decade. What lies beyond the ends is counted in the first or last bin.
HISTOGRAM_EDGES: tuple[float, ...] = tuple(10 ** (exponent / 4) for exponent in range(-32, 5))
_Z_95 = 1.959964


@dataclass(frozen=True)
class Measures:
    """How far a candidate is from its reference; ``None`` where a measure has no meaning for the data."""

    images: int
    finite: bool
    relative_l2_mean: float
    relative_l2_worst: float
    relative_l2_histogram: tuple[int, ...]
    """Images in each bin of ``HISTOGRAM_EDGES``."""
    worst_image: int
    centred_cosine_mean: float
    centred_cosine_worst: float
    overlap_at_1: float | None
    overlap_at_10: float | None
    top_1_agreement: float | None


@dataclass(frozen=True)
class Crowd:
    """More images than travel in a bundle, and their PyTorch outputs (G, D): where neighbours are looked for.

    With ``labels`` (G,), and ``queries`` (Q, H, W, 3) held out with theirs, the task itself is measured too.
    """

    images: Images
    reference: Outputs
    labels: Labels | None = None
    queries: Images | None = None
    query_reference: Outputs | None = None
    query_labels: Labels | None = None


@dataclass(frozen=True)
class Task:
    """Do delivered embeddings serve the task as well? kNN and linear accuracy on the same held-out images.

    ``difference`` is candidate less reference; ``not worse`` when its 95 % interval lies above minus the margin,
    ``undecided`` where the images are too few to tell, else ``worse``.
    """

    queries: int
    knn_accuracy: float
    knn_agreement: float
    knn_difference: float
    knn_interval_95: tuple[float, float]
    linear_accuracy: float
    linear_agreement: float
    linear_difference: float
    linear_interval_95: tuple[float, float]
    margin: float
    verdict: Literal["not worse", "undecided", "worse"]


def relative_l2(reference: Outputs, candidate: Outputs) -> npt.NDArray[np.float64]:
    """``|c - r| / |r|`` a row, (N,), in float64."""
    r, c = reference.astype(np.float64), candidate.astype(np.float64)
    error: npt.NDArray[np.float64] = np.linalg.norm(c - r, axis=1) / np.maximum(np.linalg.norm(r, axis=1), _TINY)
    return error


def error_histogram(error: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """How many of the errors (N,) lie in each bin of ``HISTOGRAM_EDGES``, the lower edge in the bin; they sum to N."""
    bins = np.searchsorted(HISTOGRAM_EDGES[1:-1], error, side="right")
    return tuple(np.bincount(bins, minlength=len(HISTOGRAM_EDGES) - 1).tolist())


def centred_cosine(reference: Outputs, candidate: Outputs) -> npt.NDArray[np.float64]:
    """Cosine a row, (N,), after the reference's mean over N was taken off both.

    Embeddings share a large mean, so the plain cosine of two different images is already high.
    Two rows that are both the mean agree: 1.
    """
    mean = reference.mean(axis=0, dtype=np.float64)
    r, c = reference - mean, candidate - mean
    r_norm, c_norm = np.linalg.norm(r, axis=1), np.linalg.norm(c, axis=1)
    cosine: npt.NDArray[np.float64] = (r * c).sum(axis=1) / np.maximum(r_norm * c_norm, _TINY)
    return np.where((r_norm == 0) & (c_norm == 0), 1.0, cosine)


def neighbour_overlap(reference: Outputs, candidate: Outputs, k: int) -> float | None:
    """Share of the candidate's k nearest neighbours that are nearest neighbours of the reference too.

    Neighbours by cosine among the first 10,000 rows, for up to 1,000 queries spread evenly over them, each query left
    out of its own neighbours. A neighbour as near as the reference's k-th, to 1e-6, counts: the order of ties says
    nothing. ``None`` when a query has no more than k others, for then every neighbour agrees.
    """
    rows = min(len(reference), GALLERY)
    if rows - 1 <= k:
        return None
    queries = np.arange(min(rows, QUERIES)) * rows // min(rows, QUERIES)
    expected = _similarities(reference[:rows], queries)
    kth = np.partition(expected, -k, axis=1)[:, -k, None]
    found = np.argpartition(_similarities(candidate[:rows], queries), -k, axis=1)[:, -k:]
    return float((np.take_along_axis(expected, found, axis=1) >= kth - _TIE).mean())


def _similarities(outputs: Outputs, queries: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Cosines (Q, N) of the queries with every row; -inf with themselves."""
    rows = outputs.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)
    cosines: npt.NDArray[np.float64] = rows[queries] @ rows.T
    cosines[np.arange(len(queries)), queries] = -np.inf
    return cosines


def top_1_agreement(reference: Outputs, candidate: Outputs) -> float:
    """Share of rows whose largest candidate logit is (one of) the reference's largest."""
    chosen = np.take_along_axis(reference, candidate.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float((chosen == reference.max(axis=1)).mean())


def measure(reference: Outputs, candidate: Outputs, *, logits: bool = False) -> Measures:
    """Every measure of candidate (N, D) against reference (N, D); neighbours of an embedding, top-1 of logits."""
    finite = bool(np.isfinite(candidate).all())
    # A NaN must not hide the worst image or reach the JSON file; `finite` alone decides then.
    candidate = np.nan_to_num(candidate, nan=0.0, posinf=0.0, neginf=0.0)
    error, cosine = relative_l2(reference, candidate), centred_cosine(reference, candidate)
    return Measures(
        images=len(reference),
        finite=finite,
        relative_l2_mean=float(error.mean()),
        relative_l2_worst=float(error.max()),
        relative_l2_histogram=error_histogram(error),
        worst_image=int(error.argmax()),
        centred_cosine_mean=float(cosine.mean()),
        centred_cosine_worst=float(cosine.min()),
        overlap_at_1=None if logits else neighbour_overlap(reference, candidate, 1),
        overlap_at_10=None if logits else neighbour_overlap(reference, candidate, 10),
        top_1_agreement=top_1_agreement(reference, candidate) if logits else None,
    )


def measure_task(crowd: Crowd, gallery: Outputs, queries: Outputs) -> Task | None:
    """Candidate outputs of the crowd's gallery and queries against the reference's; ``None`` without labels."""
    if crowd.labels is None or crowd.query_reference is None or crowd.query_labels is None:
        return None
    truth, found = crowd.query_labels, {}
    for name, predict in (("knn", knn_predict), ("linear", linear_predict)):
        right = predict(crowd.reference, crowd.labels, crowd.query_reference)
        # The linear classifier is the reference's: what is asked is whether the embeddings can take its place.
        fitted = gallery if name == "knn" else crowd.reference
        got = predict(fitted, crowd.labels, queries)
        found[name] = right, got, *paired_difference(got == truth, right == truth)
    (knn, knn_got, knn_d, knn_i), (linear, linear_got, linear_d, linear_i) = found["knn"], found["linear"]
    return Task(
        queries=len(truth),
        knn_accuracy=float((knn_got == truth).mean()),
        knn_agreement=float((knn_got == knn).mean()),
        knn_difference=knn_d,
        knn_interval_95=knn_i,
        linear_accuracy=float((linear_got == truth).mean()),
        linear_agreement=float((linear_got == linear).mean()),
        linear_difference=linear_d,
        linear_interval_95=linear_i,
        margin=MARGIN,
        verdict=judge_difference(knn_d, knn_i, MARGIN),
    )


def paired_difference(
    candidate: npt.NDArray[np.bool_], reference: npt.NDArray[np.bool_]
) -> tuple[float, tuple[float, float]]:
    """Candidate's accuracy less the reference's on the same images (N,), with its 95 % interval.

    Wald's interval for paired shares with Agresti and Min's correction (2005): half an image is added to each of the
    four cells, so that two files which agree on every image still have an interval of some width.
    """
    gained, lost = int((candidate & ~reference).sum()), int((~candidate & reference).sum())
    n, b, c = len(reference) + 2, gained + 0.5, lost + 0.5
    centre, half = (b - c) / n, _Z_95 * np.sqrt((b + c) - (b - c) ** 2 / n) / n
    return (gained - lost) / len(reference), (float(centre - half), float(centre + half))


def judge_difference(
    difference: float, interval: tuple[float, float], margin: float
) -> Literal["not worse", "undecided", "worse"]:
    """Non-inferiority by the interval; an interval wider than the margin cannot show it, nor refute it alone."""
    if interval[0] >= -margin:
        return "not worse"
    too_wide = (interval[1] - interval[0]) / 2 > margin
    return "undecided" if too_wide and difference >= -margin else "worse"


def knn_predict(gallery: Outputs, labels: Labels, queries: Outputs, k: int = KNN_K) -> Labels:
    """Classes (Q,) by the k nearest of the gallery in cosine, votes weighted exp(cosine / temperature)."""
    rows, classes = _unit(gallery), int(labels.max()) + 1
    k = min(k, len(gallery))
    parts = []
    for part in _blocks(queries):
        cosines = _unit(part) @ rows.T
        near = np.argpartition(cosines, -k, axis=1)[:, -k:]
        weights = np.exp((np.take_along_axis(cosines, near, axis=1) - 1) / KNN_TEMPERATURE)
        votes = np.zeros((len(part), classes))
        np.add.at(votes, (np.arange(len(part))[:, None], labels[near]), weights)
        parts.append(votes.argmax(axis=1))
    return np.concatenate(parts)


def linear_predict(gallery: Outputs, labels: Labels, queries: Outputs) -> Labels:
    """Classes (Q,) by ridge regression of one-hot labels on the gallery's standardised outputs."""
    mean, std = gallery.mean(axis=0, dtype=np.float64), gallery.std(axis=0, dtype=np.float64)
    scale = 1 / np.maximum(std, 1e-6 * max(float(std.max()), _TINY))
    x, targets = (gallery - mean) * scale, np.eye(int(labels.max()) + 1)[labels]
    offset = targets.mean(axis=0)
    ridge = x.T @ x + 0.01 * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(ridge, x.T @ (targets - offset))
    chosen: Labels = (((queries - mean) * scale) @ weights + offset).argmax(axis=1)
    return chosen


def _unit(outputs: Outputs) -> Outputs:
    norms: Outputs = np.maximum(np.linalg.norm(outputs, axis=1, keepdims=True), _TINY)
    return outputs / norms


def _blocks(rows: Outputs) -> Iterator[Outputs]:
    for start in range(0, len(rows), 1_000):
        yield rows[start : start + 1_000]
