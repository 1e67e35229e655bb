"""How many nearest neighbours an INT8 file will keep among more images than decide."""

import numpy as np
import pytest

from byolt_export.proof.measures import neighbour_overlap
from byolt_export.quantize.deciding import enough, expected_overlap, keeps_enough


def test_fewer_deciding_images_have_to_keep_more() -> None:
    assert enough("int8", 100) == pytest.approx(0.95 + 2 * np.sqrt(0.95 * 0.05 / 100))
    # The proof asks of 1,000 at the most.
    assert 1 > enough("int8", 100) > enough("int8", 256) > enough("int8", 1000) == enough("int8", 4000) > 0.95
    assert enough("int8", 1000, logits=True) == pytest.approx(0.97 + 2 * np.sqrt(0.97 * 0.03 / 1000))
    assert enough("fp16", 1000) == pytest.approx(0.99 + 2 * np.sqrt(0.99 * 0.01 / 1000))
    assert enough("int8", 16) == 1  # So few cannot keep more than all.


def test_the_loss_grows_as_the_fourth_root_of_the_images() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(400, 6)).astype(np.float32)
    candidate = reference + 0.02 * rng.normal(size=reference.shape).astype(np.float32)
    kept = neighbour_overlap(reference, candidate, 1)
    assert kept is not None
    assert 0.85 < kept < 0.99
    assert expected_overlap(reference, candidate, 6400) == (kept, pytest.approx(1 - 2 * (1 - kept)))
    assert expected_overlap(reference, candidate, 100) == (kept, kept)  # Of fewer images nothing is taken for granted.
    assert expected_overlap(reference, candidate, 10**6) == expected_overlap(reference, candidate, 10_000)
    assert expected_overlap(reference, reference, 1600) == (1.0, 1.0)
    assert expected_overlap(reference[:1], candidate[:1], 1600) is None


def test_every_deciding_image_is_asked_for_its_neighbour() -> None:
    rng = np.random.default_rng(2)
    reference = rng.normal(size=(2000, 6)).astype(np.float32)
    candidate = reference.copy()
    candidate[1::2] += 0.1 * rng.normal(size=(1000, 6)).astype(np.float32)  # The proof would ask every other one.
    found = expected_overlap(reference, candidate, 100)
    of_all = neighbour_overlap(reference, candidate, 1, queries=2000)
    of_half = neighbour_overlap(reference, candidate, 1)
    assert found is not None
    assert of_all is not None
    assert of_half is not None
    assert found[0] == of_all < of_half - 0.02


def test_what_is_expected_is_nearer_to_what_comes_than_what_was_kept() -> None:
    rng = np.random.default_rng(1)
    # Directions of five values differ in four ways, where the fourth root is right.
    reference = rng.normal(size=(4000, 5)).astype(np.float32)
    candidate = reference + 0.02 * rng.normal(size=reference.shape).astype(np.float32)
    true = neighbour_overlap(reference, candidate, 1)
    found = expected_overlap(reference[:1000], candidate[:1000], 4000)
    assert found is not None
    assert true is not None
    assert found[0] - true > 0.05
    assert found[1] == pytest.approx(true, abs=0.03)


@pytest.mark.parametrize("gallery", [0, 400])
def test_no_deciding_image_may_be_nearly_as_far_off_as_the_proof_forbids(gallery: int) -> None:
    reference = np.eye(400, dtype=np.float32)  # As far from each other as can be: all neighbours and classes are kept.
    lines: list[str] = []

    def enough_with(error: float) -> bool:
        outputs = reference.copy()
        outputs[7, 7] += error
        return keeps_enough("int8", reference, outputs, gallery, lines.append)

    assert enough_with(0.19)
    assert len(lines) == 1
    assert not enough_with(0.21)  # The proof allows 0.25.
    assert lines[-1] == "relative L2 0.21 of the worst image, 0.20 wanted"
