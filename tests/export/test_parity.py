import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from byolt_export.errors import ByoltError
from byolt_export.measures import (
    Crowd,
    Images,
    Measures,
    Outputs,
    centred_cosine,
    judge_difference,
    knn_predict,
    linear_predict,
    measure,
    measure_task,
    neighbour_overlap,
    paired_difference,
    relative_l2,
    top_1_agreement,
)
from byolt_export.parity import GATES, Gates, batch_sizes, faults, prove, tighten

FP32 = GATES["fp32"]


def array(*rows: tuple[float, ...]) -> Outputs:
    return np.array(rows, dtype=np.float32)


def on_circle(*degrees: float) -> Outputs:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_relative_l2_is_the_distance_over_the_reference_norm() -> None:
    # |(3, 4.5) - (3, 4)| / |(3, 4)| = 0.5 / 5; |(0, 2) - (2, 0)| / |(2, 0)| = sqrt(8) / 2.
    error = relative_l2(array((3, 4), (2, 0)), array((3, 4.5), (0, 2)))
    assert error == pytest.approx([0.1, np.sqrt(2)], rel=1e-7)


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


def test_measures_name_the_worst_image_and_survive_not_a_number() -> None:
    reference = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    candidate = reference.copy()
    candidate[5] *= 1.5
    measures = measure(reference, candidate)
    assert (measures.worst_image, measures.finite) == (5, True)
    assert measures.relative_l2_worst == pytest.approx(0.5)
    assert measures.relative_l2_mean == pytest.approx(0.5 / 12)
    candidate[3, 0] = np.nan
    measures = measure(reference, candidate)
    assert not measures.finite
    assert faults(measures, FP32)[0] == "outputs are not finite"
    assert np.isfinite(measures.relative_l2_worst)


def test_logits_are_judged_by_their_largest_and_embeddings_by_their_neighbours() -> None:
    reference = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    logits, embedding = measure(reference, reference, logits=True), measure(reference, reference)
    assert (logits.top_1_agreement, logits.overlap_at_1) == (1, None)
    assert (embedding.top_1_agreement, embedding.overlap_at_1, embedding.overlap_at_10) == (None, 1, 1)


def test_gates_can_only_be_tightened() -> None:
    asked = {"relative_l2_worst_max": 1.0, "centred_cosine_worst": 0.0, "overlap_at_1": 1.0}
    assert tighten(FP32, asked) == Gates(1e-4, 1e-4, 0.99999, 1.0, 0.99, 0.99, 0.0)
    assert tighten(FP32, {"relative_l2_worst_max": 1e-6}).relative_l2_worst_max == 1e-6
    assert tighten(GATES["int8"], {"unnoticed_perturbation_max": 0.8}).unnoticed_perturbation_max == 0.4


LIMITS = Gates(0.01, 0.1, 0.9, 0.8, 0.7, 0.6, 0.0)
AT_THE_LIMITS = Measures(9, True, 0.01, 0.1, (9,), 4, 0.95, 0.9, 0.8, 0.7, 0.6)


@pytest.mark.parametrize(
    ("measure", "value", "fault"),
    [
        ("relative_l2_worst", 0.11, "relative L2 0.11 of image 4 is above 0.1"),
        ("relative_l2_mean", 0.011, "mean relative L2 0.011 is above 0.01"),
        ("centred_cosine_worst", 0.89, "centred cosine worst 0.89 is below 0.9"),
        ("overlap_at_1", 0.79, "overlap at 1 0.79 is below 0.8"),
        ("overlap_at_10", 0.69, "overlap at 10 0.69 is below 0.7"),
        ("top_1_agreement", 0.59, "top 1 agreement 0.59 is below 0.6"),
    ],
)
def test_each_gate_holds_up_to_its_limit(measure: str, value: float, fault: str) -> None:
    assert faults(AT_THE_LIMITS, LIMITS) == []
    assert faults(replace(AT_THE_LIMITS, **{measure: value}), LIMITS) == [fault]


def test_batch_sizes() -> None:
    assert [batch_sizes(1, n) for n in (1, 4, 7, 64)] == [(1,), (1, 2, 4), (1, 2, 7), (1, 2, 7, 64)]
    assert batch_sizes(8, 64) == (1, 2, 7, 8, 64)


BATCHES = (1, 2, 7, 8)
IMAGES = np.random.default_rng(3).integers(0, 256, (24, 2, 2, 3), dtype=np.uint8)
KERNEL = np.random.default_rng(4).normal(size=(12, 6))


def linear(images: Images, kernel: npt.NDArray[np.float64] = KERNEL) -> Outputs:
    return (images.reshape(len(images), -1).astype(np.float64) @ kernel).astype(np.float32)


WRONG = {"swapped_channels": linear(IMAGES[..., ::-1]), "shuffled_rows": np.roll(linear(IMAGES), 1, axis=0)}


def test_a_right_function_passes_and_each_call_has_exactly_the_stated_rows() -> None:
    calls: list[int] = []

    def run(images: Images) -> Outputs:
        calls.append(len(images))
        return linear(images)

    crowd = Crowd(IMAGES[::-1], linear(IMAGES[::-1]))
    controls = {**WRONG, "no_normalisation": None}
    parity = prove(run, IMAGES, linear(IMAGES), controls, gates=FP32, batches=(1, 2, 7, 50), logits=False, crowd=crowd)
    assert (parity.verdict, parity.reasons) == ("passed", ())
    assert calls == [1] * 24 + [2] * 12 + [7] * 4 + [50] + [50]
    assert [c.state for c in parity.controls] == ["fails", "fails", "not applicable"]
    assert parity.gallery is not None
    json.dumps(parity.to_json(), allow_nan=False)


def test_a_control_that_passes_the_gate_fails_the_verdict() -> None:
    controls = {"perturbed_kernel": linear(IMAGES, KERNEL * (1 + 1e-6))}
    parity = prove(linear, IMAGES, linear(IMAGES), controls, gates=FP32, batches=BATCHES, logits=False)
    assert parity.verdict == "failed"
    assert parity.reasons == ("the wrong model `perturbed_kernel` was not noticed",)


def test_outputs_that_depend_on_the_batch_fail() -> None:
    def run(images: Images) -> Outputs:  # BatchNorm left in train mode.
        outputs = linear(images)
        return outputs - outputs.mean(axis=0) if len(images) == 7 else outputs

    parity = prove(run, IMAGES, linear(IMAGES), WRONG, gates=FP32, batches=BATCHES, logits=False)
    assert parity.verdict == "failed"
    assert [reason[:10] for reason in parity.reasons] == ["at batch 7", "at batch 7"]


@pytest.mark.parametrize("refused", [1, 7, 8])
def test_a_batch_that_does_not_run_fails(refused: int) -> None:
    def run(images: Images) -> Outputs:
        if len(images) == refused:
            raise ByoltError("no such batch")
        return linear(images)

    parity = prove(run, IMAGES, linear(IMAGES), WRONG, gates=FP32, batches=BATCHES, logits=False)
    assert (parity.verdict, parity.reasons) == ("failed", (f"at batch {refused}, no such batch",))


def test_outputs_of_another_width_fail_with_all_batches() -> None:
    parity = prove(
        lambda images: linear(images)[:, :3], IMAGES, linear(IMAGES), WRONG, gates=FP32, batches=BATCHES, logits=False
    )
    assert parity.verdict == "failed"
    assert parity.reasons[0] == "at batch 1, the output is 3 wide, the reference 6"
    assert parity.golden is None


def test_a_worse_gallery_fails() -> None:
    crowd = Crowd(IMAGES, linear(IMAGES, KERNEL * 1.01))
    parity = prove(linear, IMAGES, linear(IMAGES), WRONG, gates=FP32, batches=BATCHES, logits=False, crowd=crowd)
    assert parity.verdict == "failed"
    assert parity.reasons[0].startswith("in the gallery, relative L2 0.0099")


def test_a_task_that_is_served_worse_fails() -> None:
    # Classes that the outputs' sign tells apart; the file answers for the queries with the sign turned.
    outputs = np.repeat(np.eye(2), 100, axis=0).astype(np.float32)
    shown, labels = np.zeros((200, 2, 2, 3), np.uint8), np.repeat([0, 1], 100)
    crowd = Crowd(shown, outputs, labels, shown + 1, outputs, labels)

    def run(images: Images) -> Outputs:
        return outputs[::-1] if images.any() else outputs

    gates = replace(FP32, overlap_at_1=0.0, overlap_at_10=0.0)
    parity = prove(run, shown, outputs, {}, gates=gates, batches=(200,), logits=False, crowd=crowd)
    assert parity.task is not None
    assert (parity.task.knn_difference, parity.task.verdict) == (-1, "worse")
    assert parity.verdict == "failed"
    assert parity.reasons[0].startswith("kNN accuracy changes by -100.00%")


def test_a_file_of_another_precision_fails_whatever_it_computes() -> None:
    fault = "it is named fp16, and it multiplies 100% in fp32"
    parity = prove(
        linear, IMAGES, linear(IMAGES), WRONG, gates=FP32, batches=BATCHES, logits=False, precision_fault=fault
    )
    assert (parity.verdict, parity.reasons) == ("failed", (fault,))


def test_small_perturbations_may_go_unnoticed_in_int8_alone_and_set_the_detection_limit() -> None:
    # The candidate is 1 % off; a model that is 1 % off the same way is nothing it could tell from the right one.
    candidate = linear(IMAGES, KERNEL * 1.01)
    controls = {"perturbed_kernel": candidate, "perturbed_kernel_10": linear(IMAGES, -KERNEL)}
    how: dict[str, Any] = {"batches": (1,), "logits": False}

    def run(images: Images) -> Outputs:
        return linear(images, KERNEL * 1.01)

    parity = prove(run, IMAGES, linear(IMAGES), controls, gates=GATES["int8"], **how)
    assert parity.verdict == "passed"
    assert [control.state for control in parity.controls] == ["below the limit", "fails"]
    assert parity.detection_limit == 0.1
    strict = prove(
        run, IMAGES, linear(IMAGES), controls, gates=replace(GATES["int8"], unnoticed_perturbation_max=0.0), **how
    )
    assert strict.reasons == ("the wrong model `perturbed_kernel` was not noticed",)


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
    crowd = Crowd(IMAGES, reference, labels, IMAGES, reference, labels)
    task = measure_task(crowd, reference, reference)
    assert task is not None
    assert (task.knn_difference, task.knn_agreement, task.linear_difference) == (0, 1, 0)
    # Queries that answer for another image: what kNN knew is gone.
    worse = measure_task(crowd, reference, reference[np.random.default_rng(0).permutation(24)])
    assert worse is not None
    assert worse.knn_agreement < 1
    assert measure_task(Crowd(IMAGES, reference), reference, reference) is None
