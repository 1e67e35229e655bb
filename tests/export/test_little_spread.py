"""A model whose outputs hardly differ from image to image: parity may fail, and the file is not called wrong."""

import numpy as np
import pytest
from tests.export.test_parity import BATCHES, FP32, IMAGES, linear

from byolt_export.arrays import Images, Outputs
from byolt_export.bundle.golden import GoldenVectors
from byolt_export.proof.measures import spread
from byolt_export.proof.parity import prove
from byolt_export.proof.report import Parity
from byolt_export.proof.task import Gallery

ERROR = 5e-5  # Of an output's length: half of what fp32 may err.


def model(images: Images, common: float) -> Outputs:
    """What tells images apart, of length about 1 an output, on top of what all have in common."""
    return (linear(images) / 1000 + np.float32(common)).astype(np.float32)


def proven(common: float, error: float = ERROR, gallery: bool = False) -> Parity:
    reference = model(IMAGES, common)
    sides = np.random.default_rng(5).normal(size=reference.shape)
    sides *= error * np.linalg.norm(reference, axis=1, keepdims=True) / np.linalg.norm(sides, axis=1, keepdims=True)
    by_image = {image.tobytes(): row for image, row in zip(IMAGES, reference + sides, strict=True)}

    def run(images: Images) -> Outputs:
        return np.stack([by_image[image.tobytes()] for image in images]).astype(np.float32)

    golden = GoldenVectors(IMAGES, reference, {"shuffled_rows": np.roll(reference, 1, axis=0)})
    among = Gallery(IMAGES, model(IMAGES, common) * np.float32(1.01)) if gallery else None
    return prove(run, golden, gates=FP32, batches=BATCHES, logits=False, gallery=among)


def test_spread_by_hand() -> None:
    # (3, 0), (-3, 0): all of the length lies apart. (4, 3), (4, -3): mean (4, 0), 3 of 5 apart.
    assert spread(np.array([[3, 0], [-3, 0]], np.float32)) == pytest.approx(1)
    assert spread(np.array([[4, 3], [4, -3]], np.float32)) == pytest.approx(0.6)
    assert spread(np.full((5, 4), 2, np.float32)) == spread(np.zeros((5, 4), np.float32)) == 0


def test_an_exact_file_of_a_model_that_tells_nothing_apart_is_not_blamed() -> None:
    assert proven(common=0).verdict == "passed"
    parity = proven(common=100)
    assert parity.verdict == "failed"
    assert parity.reasons[0].startswith("the model is at fault and not the file, which errs by 5e-05 of an output")
    assert "BatchNorm statistics that lag behind" in parity.reasons[0]
    assert any(reason.startswith("centred cosine") for reason in parity.reasons[1:])


def test_a_file_that_errs_by_more_than_it_may_is_blamed_whatever_the_model() -> None:
    for parity in (proven(common=100, error=2e-4), proven(common=100, gallery=True), proven(common=0, error=2e-4)):
        assert parity.verdict == "failed"
        assert not any("the model is at fault" in reason for reason in parity.reasons)
