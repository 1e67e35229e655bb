"""Do delivered embeddings serve the task as well? kNN and linear accuracy on held-out images; numpy alone.

Axes: D output features, Q queries, G gallery images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from byolt_export.arrays import Images, Labels, Outputs
from byolt_export.proof.agreement import Z_95
from byolt_export.proof.measures import TINY
from byolt_export.proof.report import Task

KNN_K, KNN_TEMPERATURE = 20, 0.07
MARGIN = 0.01  # Accuracy that a delivered file may lose: one point.


@dataclass(frozen=True)
class Gallery:
    """More images than travel in a bundle, and their PyTorch outputs (G, D): where neighbours are looked for.

    With ``labels`` (G,), and ``queries`` (Q, H, W, 3) held out with theirs, the task itself is measured too.
    """

    images: Images
    reference: Outputs
    labels: Labels | None = None
    queries: Images | None = None
    query_reference: Outputs | None = None
    query_labels: Labels | None = None


def measure_task(gallery: Gallery, outputs: Outputs, queries: Outputs) -> Task | None:
    """Candidate outputs of the gallery's images and queries against the reference's; ``None`` without labels."""
    if gallery.labels is None or gallery.query_reference is None or gallery.query_labels is None:
        return None
    truth, found = gallery.query_labels, {}
    for name, predict in (("knn", knn_predict), ("linear", linear_predict)):
        right = predict(gallery.reference, gallery.labels, gallery.query_reference)
        # The linear classifier is the reference's: what is asked is whether the embeddings can take its place.
        fitted = outputs if name == "knn" else gallery.reference
        got = predict(fitted, gallery.labels, queries)
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
    centre, half = (b - c) / n, Z_95 * np.sqrt((b + c) - (b - c) ** 2 / n) / n
    return (gained - lost) / len(reference), (max(-1.0, float(centre - half)), min(1.0, float(centre + half)))


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
    scale = 1 / np.maximum(std, 1e-6 * max(float(std.max()), TINY))
    x, targets = (gallery - mean) * scale, np.eye(int(labels.max()) + 1)[labels]
    offset = targets.mean(axis=0)
    ridge = x.T @ x + 0.01 * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(ridge, x.T @ (targets - offset))
    chosen: Labels = (((queries - mean) * scale) @ weights + offset).argmax(axis=1)
    return chosen


def _unit(outputs: Outputs) -> Outputs:
    norms: Outputs = np.maximum(np.linalg.norm(outputs, axis=1, keepdims=True), TINY)
    return outputs / norms


def _blocks(rows: Outputs) -> Iterator[Outputs]:
    for start in range(0, len(rows), 1_000):
        yield rows[start : start + 1_000]
