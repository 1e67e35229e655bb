"""Distances between outputs, by hand."""

import numpy as np
import pytest

from byolt_export.arrays import Outputs
from byolt_export.proof.gates import GATES, faults
from byolt_export.proof.measures import centred_cosine, measure, neighbour_overlap, relative_l2, top_1_agreement


def array(*rows: tuple[float, ...]) -> Outputs:
    return np.array(rows, dtype=np.float32)


def on_circle(*degrees: float) -> Outputs:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_relative_l2_is_the_distance_over_the_reference_norm() -> None:
    # |(3, 4.5) - (3, 4)| / |(3, 4)| = 0.5 / 5; |(0, 5) - (5, 0)| / |(5, 0)| = sqrt(2).
    error = relative_l2(array((3, 4), (5, 0)), array((3, 4.5), (0, 5)))
    assert error == pytest.approx([0.1, np.sqrt(2)], rel=1e-7)


def test_relative_l2_of_a_short_row_is_over_the_median_length() -> None:
    # Lengths 5, 0.01, 3 and 2: the median is 2.5, which the second and the last row are shorter than.
    reference = array((3, 4), (0.01, 0), (0, 3), (2, 0))
    error = relative_l2(reference, reference + array((0, 0.5), (0, 0.5), (0.6, 0), (0, 0.5)))
    assert error == pytest.approx([0.1, 0.2, 0.2, 0.2], rel=1e-6)
    # Of more rows than images, each is of image n modulo N, and the median that of the images.
    filled = relative_l2(reference, array((3, 4), (0.01, 0), (0, 3), (2, 0), (3, 4.5), (0.51, 0)))
    assert filled == pytest.approx([0, 0, 0, 0, 0.1, 0.2], rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_weak_classifier_of_two_classes_is_not_failed_for_logits_that_are_nearly_0(precision: str) -> None:
    # Its logits lie along one line through 0, some of them on 0; the errors are a fifth of what the gates allow.
    rng = np.random.default_rng(0)
    margin = np.concatenate([rng.normal(size=500), np.geomspace(1e-6, 1e-3, 6)])
    reference = (margin[:, None] * np.array([1, -1])).astype(np.float32)
    noise = {"fp32": 1e-5, "fp16": 2e-3}[precision] * rng.normal(size=reference.shape)
    found = measure(reference, (reference + noise).astype(np.float32), logits=True)
    assert faults(found, GATES[precision]) == []
    # Twenty times the noise is too much, and so is a candidate whose every output is the mean.
    loud = measure(reference, (reference + 20 * noise).astype(np.float32), logits=True)
    assert any("relative L2" in fault for fault in faults(loud, GATES[precision]))
    mean = np.broadcast_to(reference.mean(axis=0), reference.shape).astype(np.float32)
    assert measure(reference, mean, logits=True).centred_cosine_worst < 0.8


def test_centred_cosine_of_a_row_near_the_mean() -> None:
    # Lengths about the mean (0, 0): 1, 1, 0.1, 0.1; the median is 0.55. The third row is off by 0.1 at a right angle:
    # its cosine is 1 / sqrt(2), and 0.55 / sqrt(0.55^2 + 0.1^2) at the median length.
    reference = array((1, 0), (-1, 0), (0.1, 0), (-0.1, 0))
    cosine = centred_cosine(reference, array((1, 1), (-1, 0), (0.1, 0.1), (-0.1, 0)))
    assert cosine == pytest.approx([np.sqrt(0.5), 1, 0.55 / np.hypot(0.55, 0.1), 1], rel=1e-6)


def test_relative_l2_of_a_zero_reference() -> None:
    error = relative_l2(array((0, 0), (0, 0)), array((0, 0), (1, 0)))
    assert error[0] == 0
    assert 1e30 < error[1] < np.inf


def test_centred_cosine_takes_the_references_mean_off_both() -> None:
    # The reference's mean is (10, 10), and (13, 14) - (10, 10) = (3, 4): cos((1, 0), (3, 4)) = 3 / 5.
    # The second row is unchanged: 1. Plain cosine would be above 0.99 for both.
    cosine = centred_cosine(array((11, 10), (9, 10)), array((13, 14), (9, 10)))
    assert cosine == pytest.approx([0.6, 1.0], abs=1e-12)


def test_centred_cosine_of_constant_outputs() -> None:
    assert centred_cosine(array((1, 2), (1, 2)), array((1, 2), (2, 2))) == pytest.approx([1.0, 0.0])


def test_overlap_counts_shared_neighbours_without_self() -> None:
    # Nearest at 0, 10, 30, 70 degrees: 10, 0, 10, 30. After 30 moved to 15: 10, *15*, 10, 15. One of four changed.
    reference, candidate = on_circle(0, 10, 30, 70), on_circle(0, 10, 15, 70)
    assert neighbour_overlap(reference, candidate, 1) == 3 / 4
    assert neighbour_overlap(reference, reference, 1) == 1


def test_overlap_ignores_length_and_the_order_of_ties() -> None:
    # 10 and -10 degrees are equally near to 0, but for 1e-5 degrees on one side or the other: 3e-8 in cosine.
    reference, candidate = on_circle(0, 10, -10.00001, 150), on_circle(0, 10.00002, -10, 150)
    assert neighbour_overlap(reference, 7 * candidate, 1) == 1


def test_overlap_has_no_meaning_when_everyone_is_a_neighbour() -> None:
    circle = on_circle(*range(0, 110, 10))
    assert len(circle) == 11
    assert neighbour_overlap(circle, circle, 10) is None
    assert neighbour_overlap(circle, circle, 9) == 1


@pytest.mark.parametrize("k", [1, 10])
def test_overlap_equals_a_slow_loop(k: int) -> None:
    rng = np.random.default_rng(k)
    reference = rng.normal(size=(40, 5)).astype(np.float32)
    candidate = (reference + 0.5 * rng.normal(size=reference.shape)).astype(np.float32)

    def nearest(outputs: Outputs, query: int) -> set[int]:
        def cosine(other: int) -> float:
            a, b = outputs[query].astype(float), outputs[other].astype(float)
            return float(a @ b / np.sqrt((a @ a) * (b @ b)))

        return set(sorted((i for i in range(40) if i != query), key=cosine)[-k:])

    expected = np.mean([len(nearest(reference, q) & nearest(candidate, q)) / k for q in range(40)])
    assert 0.2 < expected < 0.95
    assert neighbour_overlap(reference, candidate, k) == pytest.approx(expected)


def test_overlap_in_a_large_gallery_asks_queries_spread_over_all_of_it() -> None:
    # 2,000 points on a circle; the candidate has drawn the second half at random. With the first 1,000 as queries
    # half as much would be lost.
    reference = on_circle(*np.linspace(0, 170, 2000))
    candidate = reference.copy()
    candidate[1000:] = np.random.default_rng(0).permutation(candidate[1000:])
    assert neighbour_overlap(reference, candidate, 1) == pytest.approx(0.5, abs=0.01)


def test_top_1_agreement() -> None:
    reference = array((1, 3, 2), (5, 0, 0), (2, 2, 1), (0, 0, 1))
    candidate = array((0, 9, 1), (0, 1, 0), (0, 5, 1), (0, 0, 1))  # Same, other, one of two equal, same.
    assert top_1_agreement(reference, candidate) == 3 / 4
    # A millionth of the largest logit apart is one rank, whatever its sign; a hundred thousandth is not.
    near = array((-1e3, -1e3 + 5e-4), (-1e3, -1e3 + 5e-2), (1, 1 - 5e-7), (0, 0))
    assert top_1_agreement(near, array((1, 0), (1, 0), (0, 1), (0, 1))) == 3 / 4


def test_measures_name_the_worst_image_and_survive_not_a_number() -> None:
    reference = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    reference[5] *= 3  # Longer than most.
    candidate = reference.copy()
    candidate[5] *= 1.5
    measures = measure(reference, candidate)
    assert (measures.worst_image, measures.finite) == (5, True)
    assert measures.relative_l2_worst == pytest.approx(0.5)
    assert measures.relative_l2_mean == pytest.approx(0.5 / 12)
    candidate[3, 0] = np.nan
    measures = measure(reference, candidate)
    assert not measures.finite
    assert faults(measures, GATES["fp32"])[0] == "outputs are not finite"
    assert np.isfinite(measures.relative_l2_worst)


def test_logits_are_judged_by_their_largest_and_embeddings_by_their_neighbours() -> None:
    reference = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    logits, embedding = measure(reference, reference, logits=True), measure(reference, reference)
    assert (logits.top_1_agreement, logits.overlap_at_1) == (1, None)
    assert (embedding.top_1_agreement, embedding.overlap_at_1, embedding.overlap_at_10) == (None, 1, 1)
