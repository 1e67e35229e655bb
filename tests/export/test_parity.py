import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from byolt_export.arrays import Images, Outputs
from byolt_export.bundle.golden import GoldenVectors
from byolt_export.bundle.manifest import Gates
from byolt_export.errors import ByoltError
from byolt_export.proof.gates import GATES, faults, tighten
from byolt_export.proof.measures import Measures
from byolt_export.proof.parity import batch_sizes, judge, prove, run_file
from byolt_export.proof.report import Parity
from byolt_export.proof.task import Gallery

FP32 = GATES["fp32"]


def array(*rows: tuple[float, ...]) -> Outputs:
    return np.array(rows, dtype=np.float32)


def on_circle(*degrees: float) -> Outputs:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


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
GOLDEN = GoldenVectors(IMAGES, linear(IMAGES), WRONG)


def test_a_right_function_passes_and_each_call_has_exactly_the_stated_rows() -> None:
    calls: list[int] = []

    def run(images: Images) -> Outputs:
        calls.append(len(images))
        return linear(images)

    gallery = Gallery(IMAGES[::-1], linear(IMAGES[::-1]))
    controls = {**WRONG, "no_normalisation": None}
    parity = prove(
        run,
        GoldenVectors(IMAGES, linear(IMAGES), controls),
        gates=FP32,
        batches=(1, 2, 7, 50),
        logits=False,
        gallery=gallery,
    )
    assert (parity.verdict, parity.reasons) == ("passed", ())
    assert calls == [1] * 24 + [2] * 12 + [7] * 4 + [50] + [50]
    assert [c.state for c in parity.controls] == ["fails", "fails", "not applicable"]
    assert parity.gallery is not None
    json.dumps(parity.to_json(), allow_nan=False)


def test_a_control_that_passes_the_gate_fails_the_verdict() -> None:
    controls = {"perturbed_kernel": linear(IMAGES, KERNEL * (1 + 1e-6))}
    parity = prove(linear, GoldenVectors(IMAGES, linear(IMAGES), controls), gates=FP32, batches=BATCHES, logits=False)
    assert parity.verdict == "failed"
    assert parity.reasons == ("the wrong model `perturbed_kernel` was not noticed",)


def test_outputs_that_depend_on_the_batch_fail() -> None:
    def run(images: Images) -> Outputs:  # BatchNorm left in train mode.
        outputs = linear(images)
        return outputs - outputs.mean(axis=0) if len(images) == 7 else outputs

    parity = prove(run, GOLDEN, gates=FP32, batches=BATCHES, logits=False)
    assert parity.verdict == "failed"
    assert [reason[:10] for reason in parity.reasons] == ["at batch 7", "at batch 7"]


@pytest.mark.parametrize("refused", [1, 7, 8])
def test_a_batch_that_does_not_run_fails(refused: int) -> None:
    def run(images: Images) -> Outputs:
        if len(images) == refused:
            raise ByoltError("no such batch")
        return linear(images)

    parity = prove(run, GOLDEN, gates=FP32, batches=BATCHES, logits=False)
    assert (parity.verdict, parity.reasons) == ("failed", (f"at batch {refused}, no such batch",))


def test_outputs_of_another_width_fail_with_all_batches() -> None:
    parity = prove(lambda images: linear(images)[:, :3], GOLDEN, gates=FP32, batches=BATCHES, logits=False)
    assert parity.verdict == "failed"
    assert parity.reasons[0] == "at batch 1, the output is 3 wide, the reference 6"
    assert parity.golden is None


def test_a_file_that_drifted_from_what_it_gave_fails() -> None:
    golden = replace(GOLDEN, controls={})
    ran, own = run_file(linear, golden, BATCHES), linear(IMAGES) * np.float32(1.01)
    lengths = np.linalg.norm(own, axis=1)
    # A hundredth of what it gives, over the length of what it gave, or over the median length where that is shorter.
    drift = float(np.mean(0.01 / 1.01 * lengths / np.maximum(lengths, np.median(lengths))))

    def judged(limit: float) -> Parity:
        return judge(ran, golden, gates=replace(GATES["int8"], drift_mean_max=limit), logits=False, own=own)

    kept = judged(1.01 * drift)
    assert kept.drift_mean == pytest.approx(drift, rel=1e-4)
    assert kept.verdict == "passed"
    (reason,) = judged(0.99 * drift).reasons
    assert reason.startswith(f"mean relative L2 {drift:.2g} from what the file itself gave when it was made is above ")


def test_a_worse_gallery_fails() -> None:
    gallery = Gallery(IMAGES, linear(IMAGES, KERNEL * 1.01))
    parity = prove(linear, GOLDEN, gates=FP32, batches=BATCHES, logits=False, gallery=gallery)
    assert parity.verdict == "failed"
    assert parity.reasons[0].startswith("in the gallery, relative L2 0.0099")


def test_a_task_that_is_served_worse_fails() -> None:
    # Classes that the outputs' sign tells apart; the file answers for the queries with the sign turned.
    outputs = np.repeat(np.eye(2), 100, axis=0).astype(np.float32)
    shown, labels = np.zeros((200, 2, 2, 3), np.uint8), np.repeat([0, 1], 100)
    gallery = Gallery(shown, outputs, labels, shown + 1, outputs, labels)

    def run(images: Images) -> Outputs:
        return outputs[::-1] if images.any() else outputs

    gates = replace(FP32, overlap_at_1=0.0, overlap_at_10=0.0)
    golden = GoldenVectors(shown, outputs, {})
    parity = prove(run, golden, gates=gates, batches=(200,), logits=False, gallery=gallery)
    assert parity.task is not None
    assert (parity.task.knn_difference, parity.task.verdict) == (-1, "worse")
    assert parity.verdict == "failed"
    assert parity.reasons[0].startswith("kNN accuracy changes by -100.00%")


def test_small_perturbations_may_go_unnoticed_in_int8_alone_and_set_the_detection_limit() -> None:
    # The candidate is 1 % off; a model that is 1 % off the same way is nothing it could tell from the right one.
    candidate = linear(IMAGES, KERNEL * 1.01)
    controls = {"perturbed_kernel": candidate} | {f"perturbed_kernel_{k}": linear(IMAGES, -KERNEL) for k in (20, 10)}
    how: dict[str, Any] = {"batches": (1,), "logits": False}

    def run(images: Images) -> Outputs:
        return linear(images, KERNEL * 1.01)

    parity = prove(run, GoldenVectors(IMAGES, linear(IMAGES), controls), gates=GATES["int8"], **how)
    assert parity.verdict == "passed"
    assert [control.state for control in parity.controls] == ["below the limit", "fails", "fails"]
    assert parity.detection_limit == 0.1
    strict = prove(
        run,
        GoldenVectors(IMAGES, linear(IMAGES), controls),
        gates=replace(GATES["int8"], unnoticed_perturbation_max=0.0),
        **how,
    )
    assert strict.reasons == ("the wrong model `perturbed_kernel` was not noticed",)
