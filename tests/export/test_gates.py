"""The gates of every network, those of one file, and what is judged over golden and gallery images together."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from tests.export.test_parity import AT_THE_LIMITS

from byolt_export.arrays import Images, Outputs
from byolt_export.bundle.golden import GoldenVectors
from byolt_export.proof.agreement import Agreement, Share, wilson_interval_95
from byolt_export.proof.gates import GATES, gates_of_file, golden_gates, least_share, outer_gates
from byolt_export.proof.parity import prove
from byolt_export.proof.report import Parity
from byolt_export.proof.task import Gallery


def test_wilson_interval_by_hand() -> None:
    # 9 of 10, z^2 = 3.8415: centre (0.9 + 0.19207) / 1.38415 = 0.78898, half 1.96 / 1.38415 * sqrt(0.009 + 0.0096036).
    assert wilson_interval_95(0.9, 10) == pytest.approx((0.78898 - 0.19314, 0.78898 + 0.19314), abs=1e-5)
    # All of n: n / (n + z^2) to 1; none: 0 to z^2 / (n + z^2).
    assert wilson_interval_95(1.0, 64) == pytest.approx((64 / 67.8415, 1), abs=1e-5)
    assert wilson_interval_95(0.0, 64) == pytest.approx((0, 3.8415 / 67.8415), abs=1e-5)


def test_least_share_by_hand() -> None:
    # 0.99^64 = 0.5256; with 1, 2, 3 and 4 missed 0.8654, 0.9735, 0.9961 and 0.9995 in all: 4 is the first above 0.999.
    assert least_share(0.99, 64) == 60 / 64
    # 0.95^8 = 0.6634, then 0.9428, 0.9942, 0.9996.
    assert least_share(0.95, 8) == 5 / 8
    # Queries are 1,000 at most: 50 missed are to be expected, and 3.09 * sqrt(47.5) = 21.3 more by chance.
    assert 0.926 < least_share(0.95, 1000) == least_share(0.95, 10**9) < 0.931


def test_golden_images_are_a_sample_of_the_outer_gates() -> None:
    assert golden_gates("int8", 64) == replace(
        GATES["int8"], overlap_at_1=54 / 64, overlap_at_10=54 / 64, top_1_agreement=57 / 64
    )


def test_a_share_of_few_images_is_a_whole_number_of_them() -> None:
    # 0.99 * 94 = 93.06, 0.98 * 94 = 92.12; of 100 it is the share itself.
    assert outer_gates("fp16", 94) == replace(
        GATES["fp16"], overlap_at_1=93 / 94, overlap_at_10=92 / 94, top_1_agreement=93 / 94
    )
    assert outer_gates("fp16", 100) == GATES["fp16"]
    assert outer_gates("int8", 10**6) == GATES["int8"]


def gates(precision: Any, mean: float, worst: float, *maps: float, gallery: tuple[float, float] = (0, 0)) -> Any:
    measured = [replace(AT_THE_LIMITS, relative_l2_mean=m, relative_l2_worst=w) for m, w in ((mean, worst), gallery)]
    found = gates_of_file(precision, measured, maps, 64)
    assert replace(found, relative_l2_mean_max=0, relative_l2_worst_max=0) == replace(
        golden_gates(precision, 64), relative_l2_mean_max=0, relative_l2_worst_max=0
    )
    return found.relative_l2_mean_max, found.relative_l2_worst_max


def test_distances_are_tightened_to_what_was_measured_within_floor_and_outer_gate() -> None:
    assert gates("fp32", 1e-5, 2e-5) == pytest.approx((3e-5, 6e-5))
    assert gates("fp32", 5e-7, 1.3e-6) == (1e-5, 2e-5)  # Another order of sums.
    assert gates("fp32", 5e-5, 9e-5) == (1e-4, 1e-4)  # The outer gates.
    assert gates("fp16", 2.5e-4, 6e-4) == pytest.approx((7.5e-4, 1.8e-3))
    assert gates("fp16", 1e-5, 1e-5) == (2**-11, 2**-10)
    assert gates("fp16", 0.011, 0.03) == pytest.approx((0.03, 0.09))
    assert gates("int8", 0.01, 0.1) == pytest.approx((0.015, 0.2))
    assert gates("int8", 0.01, 0.1, gallery=(0.02, 0.05)) == pytest.approx((0.03, 0.2))
    assert gates("int8", 0.01, 0.02, 0.03, 0.11) == pytest.approx((0.015, 0.22))  # Maps by themselves.


def test_an_int8_file_may_drift_by_three_times_what_another_order_of_sums_costs() -> None:
    def limit(drift: float, mean: float) -> float:
        measured = [replace(AT_THE_LIMITS, relative_l2_mean=mean, relative_l2_worst=2 * mean)]
        return gates_of_file("int8", measured, (), 64, drift).drift_mean_max

    assert limit(0.002, 0.02) == pytest.approx(0.006)
    assert limit(1e-5, 0.02) == 2**-10
    assert limit(0.02, 0.02) == pytest.approx(0.03)  # No further from itself than from PyTorch, 1.5 times 0.02.
    assert gates_of_file("int8", [AT_THE_LIMITS], (), 64).drift_mean_max == float("inf")


def on_circle(degrees: Any) -> Outputs:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def shown(count: int, seed: int) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)


def prove_pairs(golden: int, gallery: int, turned: int) -> Parity:
    """Pairs of images, each other's nearest; of the golden ones a file moves the last ``turned`` off their pairs."""
    count = golden + gallery
    angles = (np.arange(count) // 2 * 2 * 170 / count) + (np.arange(count) % 2) * 40 / count
    moved = angles.copy()
    # Of a pair the second goes beyond the next pair's first: nearer to it than to its own.
    moved[[golden - 2 * k - 3 for k in range(turned)]] += 280 / count
    images = np.concatenate([shown(golden, 0), shown(gallery, 1)])
    reference, found = on_circle(angles), on_circle(moved)
    rows = {image.tobytes(): row for image, row in zip(images, found, strict=True)}
    loose = replace(
        GATES["int8"], relative_l2_mean_max=1, relative_l2_worst_max=1, centred_cosine_worst=0, overlap_at_10=0
    )
    return prove(
        lambda given: np.stack([rows[image.tobytes()] for image in given]),
        GoldenVectors(images[:golden], reference[:golden], {}),
        gates=loose,
        batches=(1,),
        logits=False,
        gallery=Gallery(images[golden:], reference[golden:]) if gallery else None,
    )


def test_neighbours_are_judged_over_golden_and_gallery_images_as_one_set() -> None:
    alone = prove_pairs(16, 0, 1)
    assert alone.golden is not None
    lost = round(16 * (1 - (alone.golden.overlap_at_1 or 0)))
    assert lost >= 1
    assert alone.reasons == (f"overlap at 1 {1 - lost / 16:.6g} is below 0.95",)
    both = prove_pairs(16, 84, 1)
    assert both.agreement is not None
    share = both.agreement.overlap_at_1
    assert share is not None
    assert (both.agreement.images, share.queries, share.value) == (100, 100, 1 - lost / 100)
    assert (both.verdict, both.reasons) == ("passed", ())
    # Where the golden images alone travel, as few of them as here are kept by a file at the gate: 12 of 16 would do.
    assert both.golden is not None
    assert golden_gates("int8", 16).overlap_at_1 == 12 / 16 <= (both.golden.overlap_at_1 or 0) < 0.95
    low = wilson_interval_95(1 - lost / 100, 100)[0]
    assert share.interval_95[0] == low < 0.95
    assert both.remarks == (
        f"overlap at 1 {1 - lost / 100:.6g} keeps 0.95, but its 95 % interval begins at {low:.6g}: "
        "100 queries are too few to be sure of it",
    )
    worse = prove_pairs(16, 84, 6)
    assert worse.reasons[0].startswith("of golden images and gallery together, overlap at 1 0.")
    assert worse.remarks == ()


def test_a_share_whose_interval_keeps_the_gate_needs_no_words() -> None:
    share = Share(0.97, wilson_interval_95(0.97, 1000), 1000, 0.95)
    agreement = Agreement(1000, share, replace(share, gate=0.98), None)
    assert agreement.remarks == ()
    assert asdict(agreement)["overlap_at_1"]["gate"] == 0.95
    assert Agreement(1000, replace(share, gate=0.97), None, None).remarks != ()
