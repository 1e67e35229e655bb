"""Weighted k-nearest-neighbour classification of frozen features.

Axes: G gallery images, Q queries, C classes, D features, K neighbours.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from byolt.evaluation.features import refuse_non_finite
from byolt_export.errors import InputError

CHUNK_ELEMENTS = 25_000_000
"""Cosines held at once: 100 MB of float32."""


def knn_predict(
    gallery: Float32[Tensor, "G D"], gallery_labels: npt.NDArray[np.int64], queries: Float32[Tensor, "Q D"], **how: Any
) -> npt.NDArray[np.int64]:
    """Class of each query, (Q,), by the votes of its k nearest gallery images; arguments as of ``knn_votes``.

    Equal votes go to the lower class.
    """
    return torch.cat([votes.argmax(1) for votes in knn_votes(gallery, gallery_labels, queries, **how)]).numpy()


def knn_votes(
    gallery: Float32[Tensor, "G D"],
    gallery_labels: npt.NDArray[np.int64],
    queries: Float32[Tensor, "Q D"],
    *,
    classes: int,
    k: int,
    temperature: float,
) -> Iterator[Float64[Tensor, "_ C"]]:
    """Share of the votes that each class gets, of the k gallery images nearest to a query.

    Wu et al. 2018 (arXiv:1805.01978), sec. 3.4: neighbours by cosine, each votes exp(cosine / temperature) for
    its class. The search is exact. Equal cosines go to the lower gallery index.

    Args:
        gallery, queries: Features, of any length; a zero vector has cosine 0 with everything.
        gallery_labels: Class of each gallery image, (G,), in [0, classes).
        classes: Number of classes.
        k: Neighbours that vote, 1 to G.
        temperature: Above 0; small values let the nearest decide.

    Yields:
        Shares of the next queries, as many as the memory for their cosines holds.

    Raises:
        InputError: k exceeds the gallery.
        NonFiniteFeatures: A feature is NaN or infinite.
    """
    refuse_non_finite(gallery, "kNN's gallery")
    refuse_non_finite(queries, "kNN's queries")
    if k > len(gallery):
        raise InputError(f"kNN: k {k} exceeds the gallery of {len(gallery)} images; take a smaller k")
    labels = torch.from_numpy(gallery_labels)
    gallery, queries = F.normalize(gallery, dim=1), F.normalize(queries, dim=1)
    chunk = max(1, CHUNK_ELEMENTS // len(gallery))
    for part in torch.split(queries, chunk):
        cosines, neighbours = _nearest(part @ gallery.T, k)
        # Weights relative to the nearest: the same winner, and exp cannot overflow at a small temperature.
        weights = ((cosines - cosines.amax(1, keepdim=True)) / temperature).double().exp()
        votes = weights.new_zeros(len(part), classes).scatter_add_(1, labels[neighbours], weights)
        yield votes / votes.sum(1, keepdim=True)


def _nearest(cosines: Float32[Tensor, "Q G"], k: int) -> tuple[Float32[Tensor, "Q K"], Int64[Tensor, "Q K"]]:
    """The k largest of each row and their columns, in no certain order; of equal values the lower columns."""
    # topk leaves open which of equal values it takes; that matters only where the k-th equals the next.
    values, columns = cosines.topk(min(k + 1, cosines.shape[1]))
    tied = values[:, k - 1] == values[:, k] if values.shape[1] > k else torch.zeros(len(values)).bool()
    values, columns = values[:, :k], columns[:, :k]
    if tied.any():
        rows, kth = cosines[tied], values[tied, -1:]
        above, equal = rows > kth, rows == kth
        taken = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
        columns[tied] = taken.nonzero()[:, 1].view(-1, k)
        values[tied] = rows[taken].view(-1, k)
    return values, columns
