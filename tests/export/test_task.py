"""kNN and linear accuracy of delivered embeddings, by hand."""

import numpy as np
import numpy.typing as npt
import pytest

from byolt_export.arrays import Images, Outputs
from byolt_export.proof.task import (
    Gallery,
    judge_difference,
    knn_predict,
    linear_predict,
    measure_task,
    paired_difference,
)


def array(*rows: tuple[float, ...]) -> Outputs:
    return np.array(rows, dtype=np.float32)


def on_circle(*degrees: float) -> Outputs:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


IMAGES = np.random.default_rng(3).integers(0, 256, (24, 2, 2, 3), dtype=np.uint8)


KERNEL = np.random.default_rng(4).normal(size=(12, 6))


def linear(images: Images, kernel: npt.NDArray[np.float64] = KERNEL) -> Outputs:
    return (images.reshape(len(images), -1).astype(np.float64) @ kernel).astype(np.float32)


def test_paired_difference_by_hand() -> None:
    # Of 98 images the candidate gains 1 and loses 3. Agresti and Min: n = 100, b = 1.5, c = 3.5, so the centre is -0.02
    # and the half width 1.959964 * sqrt(5 - 4 / 100) / 100.
    reference, candidate = np.ones(98, bool), np.ones(98, bool)
    reference[0] = candidate[1] = candidate[2] = candidate[3] = False
    difference, (low, high) = paired_difference(candidate, reference)
    assert difference == pytest.approx(-2 / 98)
    assert (low, high) == pytest.approx((-0.02 - 0.043650, -0.02 + 0.043650), abs=1e-5)


@pytest.mark.parametrize(
    ("difference", "interval", "verdict"),
    [
        (0.0, (-0.009, 0.009), "not worse"),
        (0.0, (-0.02, 0.02), "undecided"),
        (-0.02, (-0.05, 0.01), "worse"),
        (-0.012, (-0.015, -0.009), "worse"),
        (-0.006, (-0.011, -0.001), "worse"),
    ],
)
def test_non_inferiority(difference: float, interval: tuple[float, float], verdict: str) -> None:
    assert judge_difference(difference, interval, 0.01) == verdict


def test_knn_votes_are_weighted_by_likeness() -> None:
    # One neighbour of class 1 at 0 degrees, two of class 0 at 40: exp((1 - cos 40) / 0.07) = 28 to 2.
    gallery = on_circle(0, 40, 40.1)
    labels = np.array([1, 0, 0])
    assert knn_predict(gallery, labels, on_circle(0.5), k=3).tolist() == [1]
    assert knn_predict(gallery, labels, on_circle(39), k=3).tolist() == [0]


def test_linear_prediction_separates_what_a_plane_separates() -> None:
    rng = np.random.default_rng(5)
    outputs = rng.normal(size=(200, 6)).astype(np.float32) * np.array([1, 1, 1, 1, 1e-3, 1e3], np.float32)
    labels = (outputs[:, 4] > 0).astype(np.int64)
    assert (linear_predict(outputs[:100], labels[:100], outputs[100:]) == labels[100:]).mean() > 0.95


def test_the_task_is_measured_where_there_are_labels() -> None:
    labels = np.arange(24) % 2
    reference = linear(IMAGES)
    gallery = Gallery(IMAGES, reference, labels, IMAGES, reference, labels)
    task = measure_task(gallery, reference, reference)
    assert task is not None
    assert (task.knn_difference, task.knn_agreement, task.linear_difference) == (0, 1, 0)
    # Queries that answer for another image: what kNN knew is gone.
    worse = measure_task(gallery, reference, reference[np.random.default_rng(0).permutation(24)])
    assert worse is not None
    assert worse.knn_agreement < 1
    assert measure_task(Gallery(IMAGES, reference), reference, reference) is None
